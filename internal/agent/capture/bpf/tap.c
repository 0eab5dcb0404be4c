// The kernel half of capture.Tap. It copies the first bytes of each frame that
// passes the filter, and what the kernel knows about it, into a ring of the
// processor that it runs on. Decoding is left to user space, but for plain UDP
// datagrams if nothing but their headers is wanted (parse): those take 32 bytes
// instead of 80, of which the other processor has to fetch each.
//
// `go generate` in the directory above compiles it; the objects are committed.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define CORE __attribute__((preserve_access_index))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define LOAD(x) (*(volatile typeof(x) *)&(x))
#define STORE(x, v) (*(volatile typeof(x) *)&(x) = (v))
#define barrier() __asm__ volatile("" ::: "memory")

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(x) ((u16)__builtin_bswap16(x))
#else
#define be16(x) ((u16)(x))
#endif

// Of linux/bpf.h, by number: see bpf-helpers(7).
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static u32 (*bpf_get_smp_processor_id)(void) = (void *)8;
static long (*bpf_skb_load_bytes)(const void *skb, u32 off, void *to, u32 len) = (void *)26;
static long (*bpf_ringbuf_output)(void *ringbuf, void *data, u64 size, u64 flags) = (void *)130;
#define BPF_RB_FORCE_WAKEUP 2

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_F_MMAPABLE 1024

#define TCX_NEXT (-1)
#define PACKET_OUTGOING 4

// struct __sk_buff of linux/bpf.h, up to what is used here.
struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto;
	u32 priority, ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end;
	u32 napi_id, family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port;
	u32 data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len, gso_segs;
	u64 sk;
	u32 gso_size;
};

// What is read of the kernel's own structures, wherever its version has it.
struct ns_common {
	u32 inum;
} CORE;
struct net {
	struct ns_common ns;
} CORE;
typedef struct {
	struct net *net;
} CORE possible_net_t;
struct net_device {
	int ifindex;
	possible_net_t nd_net;
} CORE;
struct sk_buff {
	u32 end;
	unsigned char *head;
	struct net_device *dev;
} CORE;
struct skb_shared_info {
	u16 gso_size, gso_segs;
	u32 gso_type;
} CORE;
#define SKB_GSO_TCPV4 (1 << 0)
#define SKB_GSO_TCPV6 (1 << 4)
#define SKB_GSO_UDP_L4 (1 << 17)

// kfuncs of Linux 6.2.
extern void *bpf_cast_to_kern_ctx(void *ctx) __attribute__((section(".ksyms")));
extern void *bpf_rdonly_cast(const void *p, u32 btf_id) __attribute__((section(".ksyms")));
#define core_type_id(t) __builtin_btf_type_id(*(t *)0, 1)

// What user space sets before the programs are loaded.
const volatile u32 mask;       // bytes of a ring less 1; 2^n-1
const volatile u32 hot;        // bytes of it that are used while they suffice less 1; 2^n-1, at most mask
const volatile u32 filtering;  // whether filter() has been replaced
const volatile u32 look = 48;  // bytes that filter() may look at
const volatile u32 link_len;   // 14 for Ethernet, 0: frames begin at the network header
const volatile u32 release;    // this processor needs more than program order to publish
const volatile u16 own_ports[4]; // the feeds'; 0 is none
const volatile u32 inside;     // whether the decoder looks inside UDP
const volatile u32 parse;      // whether plain UDP datagrams are parsed here
const volatile u32 turn;       // the value of egress at which this program reports

// Which program reports what the host sends: the one whose turn it is. User
// space changes it while they run. One load decides, so that no change of
// position or filter can report a frame twice, but for those that wait in a
// queue between the two. 0 is nobody's turn.
volatile u32 egress = 0;
volatile u32 ingress = 0;
// Whether tap_egress reports frames, when it is not its turn, as seen before the queue: with
// the flag EARLY, or EARLY | TWICE if another program reports them behind it.
volatile u32 early = 0;

#define SNAP 256  // bytes of a frame that are kept at most: KEEP_MOST
#define UNIT 16   // what places in the ring are counted in
#define SPARE 512 // behind each ring: the last frame may reach into it
#define SCRATCH 512

// ring is one processor's. Only its programs write the first line, and only
// user space the second.
struct ring {
	u64 head; // bytes ever written
	u64 received, dropped, own;
	u64 nested; // frames that came while another was being written: dropped too
	u64 wakes;
	u32 busy, unused;
	u64 grown; // from this position on all of the ring is used; 0: only its hot part

	u64 tail; // bytes ever read
	u32 asleep;
	u32 calm; // user space is about to block for as long as it takes
	u64 unused4[6];
};
#define RING_LEN sizeof(struct ring)

// slot is a frame in the ring, in host byte order.
struct slot {
	u64 time; // of CLOCK_MONOTONIC, ns
	u32 len;  // of the frame, and from bit LEN_BITS the number of the interface
	u16 cap;  // bytes that were kept
	u8 units; // that it takes in the ring
	u8 flags;
};
#define LEN_BITS 20 // a super-packet has less than a MiB
#define OUTGOING 1
#define EXTENDED 2 // struct extension comes between slot and frame
#define TAGGED 4   // extension's tci and tpid are valid
#define EARLY 8    // seen before the queueing discipline
#define TWICE 16   // and to be seen behind it

#define PARSED 32  // it is a struct parsed instead

// parsed is all that is wanted of a plain UDP datagram. Its flags are where a slot's are.
struct parsed {
	u64 time;
	u8 mac[6]; // source
	u8 ttl, flags;
	u8 addrs[8], ports[4]; // as in the packet
	u16 length;            // of the IP packet
	u8 reason;             // why it is not MGEN's: of package mgen
	u8 unused;
};

struct extension {
	u16 gso_size;
	u8 gso_kind; // as in struct virtio_net_hdr
	u8 unused;
	u16 tci, tpid;
	u16 protocol; // EtherType, host byte order
	u16 unused2[3];
};
#define SLOT sizeof(struct slot)
#define EXT sizeof(struct extension)

// Maps in the form that BTF describes; user space sets the sizes.
#define UINT(name, val) int(*name)[val]
struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(key_size, 4);
	UINT(value_size, 4096);
	UINT(max_entries, 1);
	UINT(map_flags, BPF_F_MMAPABLE);
} rings SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_RINGBUF);
	UINT(max_entries, 65536);
} bell SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(key_size, 16);
	UINT(value_size, 4);
	UINT(max_entries, 4096);
} own_addrs SEC(".maps");

// For one set of programs that serves many interfaces: which they are, and what
// of them is reported. User space alone writes them, but for dropped.
struct place {
	u32 inum; // of the network namespace
	u32 ifindex;
};
struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(key_size, sizeof(struct place));
	UINT(value_size, 4);
	UINT(max_entries, 4096);
} places SEC(".maps");

struct watched {
	u32 ingress; // 1: what the interface receives is reported
	u32 egress;  // who reports what is sent: SENT_BY_TCX and so on; 0 is nobody
	u64 dropped; // frames for which the ring had no room
	u32 from;    // FROM_MAC: no frames but those from mac; FROM_OTHERS: none of those; 0: all
	u8 mac[6];   // valid iff from is not 0
	u8 unused[38];
};
#define FROM_MAC 1
#define FROM_OTHERS 2
#define SENT_BY_TCX 1
#define SENT_BY_SOCKET 2
#define SENT_BY_BOTH 3
#define SENT_BEFORE 4 // by tcx, before a queue
struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(key_size, 4);
	UINT(value_size, sizeof(struct watched));
	UINT(max_entries, 4096);
	UINT(map_flags, BPF_F_MMAPABLE);
} watches SEC(".maps");

// filter is where user space puts what the -m filter was translated into. It
// says whether a frame passes: not 0. kind is the packet type (packet(7)) and,
// in bit 8, whether there is a tag that was taken out; tag its TCI and, from
// bit 16, the frame's protocol in host byte order.
static __attribute__((noinline)) int filter(const u8 *frame, u32 cap, u32 len, u32 kind, u32 tag)
{
	u32 pass = 1;
	__asm__ volatile("" : "+r"(pass) : "r"(frame), "r"(cap), "r"(len), "r"(kind), "r"(tag));
	return pass;
}

INLINE u16 get16(const u8 *p) { return be16(*(const u16 *)p); }

#define TCP 6

// What a decoder needs of a frame.
#include "keep.h"

INLINE int is_port(u16 port)
{
	return (own_ports[0] && port == own_ports[0]) || (own_ports[1] && port == own_ports[1]) ||
	       (own_ports[2] && port == own_ports[2]) || (own_ports[3] && port == own_ports[3]);
}

INLINE int is_own(const u8 *d, u32 cap)
{
	if (link_len > 14 || cap < link_len + 24)
		return 0;
	u32 key[4] = {0, 0, 0, 0};
	const u8 *ip = d + link_len;
	u8 version = *ip >> 4;
	if (version == 4) {
		if (*ip != 0x45 || ip[9] != TCP)
			return 0;
		int from = is_port(get16(ip + 20)), to = is_port(get16(ip + 22));
		if (likely(!from && !to))
			return 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
		key[2] = 0xffff0000;
#else
		key[2] = 0x0000ffff;
#endif
		if (from) {
			__builtin_memcpy(&key[3], ip + 12, 4);
			if (bpf_map_lookup_elem(&own_addrs, key))
				return 1;
		}
		if (to) {
			__builtin_memcpy(&key[3], ip + 16, 4);
			if (bpf_map_lookup_elem(&own_addrs, key))
				return 1;
		}
		return 0;
	}
	if (version != 6 || cap < link_len + 44 || ip[6] != TCP)
		return 0;
	int from = is_port(get16(ip + 40)), to = is_port(get16(ip + 42));
	if (likely(!from && !to))
		return 0;
	if (from) {
		__builtin_memcpy(key, ip + 8, 16);
		if (bpf_map_lookup_elem(&own_addrs, key))
			return 1;
	}
	if (to) {
		__builtin_memcpy(key, ip + 24, 16);
		if (bpf_map_lookup_elem(&own_addrs, key))
			return 1;
	}
	return 0;
}

// gso_kind as virtio_net_hdr_from_skb in the kernel has it; 0 what it cannot
// express. Decoders mark those frames as not told apart.
INLINE u8 gso_kind(u32 type)
{
	if (type & SKB_GSO_TCPV4)
		return 1;
	if (type & SKB_GSO_TCPV6)
		return 4;
	if (type & SKB_GSO_UDP_L4)
		return 5;
	return 0;
}

INLINE void publish(struct ring *r, u64 head)
{
	if (release || unlikely(LOAD(r->calm))) {
		// An atomic add orders memory only if its old value is asked for: without,
		// the compiler makes an instruction that arm64 may reorder. With it, the
		// frame is visible before head is, and either user space sees head or we
		// see that it sleeps.
		u64 was = __sync_fetch_and_add(&r->head, head - r->head);
		__asm__ volatile("" : : "r"(was) : "memory");
	} else {
		barrier();
		STORE(r->head, head);
	}
	if (unlikely(LOAD(r->asleep))) {
		STORE(r->asleep, 0);
		r->wakes++;
		u64 one = 1;
		bpf_ringbuf_output(&bell, &one, sizeof(one), BPF_RB_FORCE_WAKEUP);
	}
}

// write_parsed makes a parsed of the frame d, which it may overwrite.
INLINE void write_parsed(struct parsed *to, const u8 *d, u64 now, u8 flags, u8 reason)
{
	u32 mac = *(const u32 *)(d + 6), ports = *(const u32 *)(d + 34);
	u16 mac2 = *(const u16 *)(d + 10), length = get16(d + 16);
	u64 addrs = *(const u64 *)(d + 26);
	u8 ttl = d[22];
	barrier();
	to->time = now;
	*(u32 *)to->mac = mac;
	*(u16 *)(to->mac + 4) = mac2;
	to->ttl = ttl;
	to->flags = flags | PARSED;
	*(u64 *)to->addrs = addrs;
	*(u32 *)to->ports = ports;
	to->length = length;
	to->reason = reason;
}

struct what {
	u32 len;
	u32 kind, tag; // as filter wants them
	u8 flags;
	u8 gso_kind;
	u16 gso_size, tpid;
	const u64 *direct; // 48 bytes that can be read at once, or 0
	const u64 *plain;  // the next 16 up to KEEP_PLAIN, likewise
	// Of many interfaces: this one's number, and where it is counted. Else 0.
	u32 id;
	struct watched *watched;
};

INLINE void drop(struct ring *r, const struct what *w)
{
	r->dropped++;
	if (w->watched)
		__sync_fetch_and_add(&w->watched->dropped, 1);
}

// find_room sets at to where in the ring the frame at position head goes, and
// reports whether there is room for it.
//
// A ring that is walked through from end to end is never in the cache. So only
// its first hot+1 bytes are used until they are full. Then the ring grows: from
// that position on all of it is used, beginning behind the hot part (and what
// its last frame reaches into), which user space still has to read. It shrinks
// when user space has read everything.
INLINE u32 find_room(struct ring *r, u64 head, u64 tail, u32 *at)
{
	u64 grown = r->grown;
	if (unlikely(grown) && head == tail)
		r->grown = grown = 0;
	if (likely(!grown)) {
		*at = (u32)head & hot;
		if (likely(head - tail <= (u64)hot + 1 - (SPARE + UNIT)))
			return 1;
		if (hot == mask)
			return 0;
		r->grown = grown = head;
	}
	*at = (u32)(head - grown + hot + 1 + SPARE) & mask;
	if (tail < grown)
		return head - grown <= mask - hot - 2 * SPARE;
	return head - tail <= (u64)mask + 1 - (SPARE + UNIT);
}

// take writes a frame into the ring of this processor.
INLINE void take(const struct __sk_buff *skb, const struct what *w)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct ring *r = bpf_map_lookup_elem(&rings, &cpu);
	if (!r)
		return;
	// Programs run one after the other on a processor, with bottom halves off.
	// Should a kernel ever nest them, the inner frame is lost, and counted.
	if (unlikely(LOAD(r->busy))) {
		r->nested++;
		return;
	}
	STORE(r->busy, 1);
	u64 head = r->head;
	u32 at, full = !find_room(r, head, LOAD(r->tail), &at);
	u8 *p = (u8 *)r + RING_LEN + at;
	if (unlikely(full)) // still to be filtered and counted
		p = (u8 *)r + RING_LEN + mask + 1 + SPARE;
	u32 ext = w->flags & EXTENDED ? EXT : 0;
	u8 *d = p + SLOT + ext;
	u32 cap;
	if (w->direct && !ext && look <= 48) {
		cap = 48;
		u64 *to = (u64 *)d;
		const u64 *from = w->direct;
		to[0] = from[0];
		to[1] = from[1];
		to[2] = from[2];
		to[3] = from[3];
		to[4] = from[4];
		to[5] = from[5];
		if (likely(w->plain)) {
			cap = KEEP_PLAIN;
			to[6] = w->plain[0];
			to[7] = w->plain[1];
		}
	} else {
		cap = w->len;
		if (cap > SNAP)
			cap = SNAP;
		if (cap < 1)
			goto out;
		if (unlikely(bpf_skb_load_bytes(skb, 0, d, cap))) { // bytes that the kernel says are there, and are not
			r->received++;
			drop(r, w);
			goto out;
		}
	}
	if (filtering && !filter(d, cap, w->len, w->kind, w->tag))
		goto out;
	if (own_ports[0]) {
		u32 seen = cap;
		// IPv6 has the ports behind the first 48 bytes.
		if (unlikely(cap == 48 && w->len >= 64 && d[link_len] >> 4 == 6 && d[link_len + 6] == TCP) && !bpf_skb_load_bytes(skb, 48, d + 48, 16))
			seen = 64;
		if (unlikely(is_own(d, seen))) {
			r->own++;
			goto out;
		}
	}
	r->received++;
	if (unlikely(full)) {
		drop(r, w);
		goto out;
	}
	// Half of all that this costs. CLOCK_TAI, which would spare user space the
	// way to UTC, costs a quarter more.
	u64 now = bpf_ktime_get_ns();
	if (parse && cap >= 48 && !(w->flags & (EXTENDED | EARLY))) {
		u32 reason = parsed(d, w->gso_size);
		if (likely(reason)) {
			write_parsed((struct parsed *)p, d, now, w->flags, reason);
			publish(r, head + sizeof(struct parsed));
			goto out;
		}
	}
	if (cap >= 48 && link_len == 14) {
		u32 want = enough(d, w->gso_size);
		if (want > cap && w->direct && !ext && look <= 48) {
			// The rest: up to 112 bytes, then up to SNAP.
			u32 more = w->len < 112 ? w->len - 48 : 64;
			if (more > 64)
				more = 64;
			if (more >= 1 && bpf_skb_load_bytes(skb, 48, d + 48, more))
				goto lost;
			cap = 48 + more;
			if (want > 112 && cap == 112) {
				want = enough6(d, w->gso_size);
				more = w->len < SNAP ? w->len - 112 : SNAP - 112;
				if (want > 112 && more >= 1 && more <= SNAP - 112) {
					if (bpf_skb_load_bytes(skb, 112, d + 112, more))
						goto lost;
					cap = 112 + more;
				}
			}
		} else if (want > 112 && cap >= 112) {
			want = enough6(d, w->gso_size);
		}
		if (cap > want)
			cap = want;
	}
	struct slot *slot = (struct slot *)p;
	u32 units = (SLOT + ext + cap + UNIT - 1) / UNIT;
	slot->time = now;
	slot->len = w->len | w->id << LEN_BITS;
	slot->cap = cap;
	slot->units = units;
	slot->flags = w->flags;
	if (ext) {
		struct extension *e = (struct extension *)(p + SLOT);
		e->gso_size = w->gso_size;
		e->gso_kind = w->gso_kind;
		e->tci = (u16)w->tag;
		e->tpid = w->tpid;
		e->protocol = w->tag >> 16;
	}
	publish(r, head + units * UNIT);
	goto out;
lost: // as above
	drop(r, w);
out:
	STORE(r->busy, 0);
}

// look_at reads what the kernel knows about the frame of a tcx program or a
// socket filter.
INLINE void look_at(struct __sk_buff *skb, struct what *w)
{
	u32 protocol = be16((u16)skb->protocol);
	w->len = skb->len;
	w->tag = protocol << 16;
	if (unlikely(skb->vlan_present)) {
		w->flags |= EXTENDED | TAGGED;
		w->kind |= 1 << 8;
		w->tag |= (u16)skb->vlan_tci;
		w->tpid = be16((u16)skb->vlan_proto);
	}
	if (link_len != 14)
		w->flags |= EXTENDED;
	u32 size = skb->gso_size;
	if (unlikely(size)) {
		struct sk_buff *k = bpf_cast_to_kern_ctx(skb);
		struct skb_shared_info *info = bpf_rdonly_cast(k->head + k->end, core_type_id(struct skb_shared_info));
		w->flags |= EXTENDED;
		w->gso_size = size;
		w->gso_kind = gso_kind(info->gso_type);
	}
}

// see is what the tcx programs do with a frame that is to be reported.
INLINE int see(struct __sk_buff *skb, struct what *w)
{
	look_at(skb, w);
	const u8 *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	if (likely(data + 48 <= end))
		w->direct = (const u64 *)data;
	if (likely(data + KEEP_PLAIN <= end))
		w->plain = (const u64 *)(data + 48);
	take(skb, w);
	return TCX_NEXT;
}

SEC("tcx/ingress") int tap_ingress(struct __sk_buff *skb)
{
	struct what w = {.kind = skb->pkt_type & 7};
	if (unlikely(!ingress))
		return TCX_NEXT;
	return see(skb, &w);
}

SEC("tcx/egress") int tap_egress(struct __sk_buff *skb)
{
	struct what w = {.kind = PACKET_OUTGOING, .flags = OUTGOING};
	if (unlikely(egress != turn)) {
		u32 flags = early;
		if (!flags)
			return TCX_NEXT;
		w.flags |= flags;
	}
	return see(skb, &w);
}

// tap_socket sits on a packet socket, which sees frames when they have left the
// queueing discipline. The socket itself takes nothing.
SEC("socket") int tap_socket(struct __sk_buff *skb)
{
	struct what w = {.kind = PACKET_OUTGOING, .flags = OUTGOING};
	if (skb->pkt_type != PACKET_OUTGOING || egress != turn)
		return 0;
	look_at(skb, &w);
	take(skb, &w);
	return 0;
}

// The same for many interfaces, in any network namespaces.

// passes is what is tested here; the rest of a filter is user space's. Frames
// whose headers are elsewhere pass.
INLINE int passes(const struct __sk_buff *skb, const struct watched *on)
{
	u32 from = LOAD(on->from);
	const u8 *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	if (!from || data + 14 > end)
		return 1;
	const u16 *a = (const u16 *)(data + 6), *b = (const u16 *)on->mac;
	int same = a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
	return same == (from == FROM_MAC);
}

// find says which interface a frame is on, and whether it is watched.
INLINE struct watched *find(struct __sk_buff *skb, struct what *w)
{
	struct sk_buff *k = bpf_cast_to_kern_ctx(skb);
	struct place at = {.inum = k->dev->nd_net.net->ns.inum, .ifindex = k->dev->ifindex};
	u32 *id = bpf_map_lookup_elem(&places, &at);
	if (!id)
		return 0;
	w->id = *id;
	w->watched = bpf_map_lookup_elem(&watches, id);
	return w->watched;
}

SEC("tcx/ingress") int many_ingress(struct __sk_buff *skb)
{
	struct what w = {.kind = skb->pkt_type & 7};
	struct watched *on = find(skb, &w);
	if (!on || !LOAD(on->ingress) || !passes(skb, on))
		return TCX_NEXT;
	return see(skb, &w);
}

SEC("tcx/egress") int many_egress(struct __sk_buff *skb)
{
	struct what w = {.kind = PACKET_OUTGOING, .flags = OUTGOING};
	struct watched *on = find(skb, &w);
	if (!on || !passes(skb, on))
		return TCX_NEXT;
	switch (LOAD(on->egress)) {
	case SENT_BY_TCX:
		return see(skb, &w);
	case SENT_BEFORE:
		w.flags |= EARLY;
		return see(skb, &w);
	case SENT_BY_BOTH:
		w.flags |= EARLY | TWICE;
		return see(skb, &w);
	}
	return TCX_NEXT;
}

SEC("socket") int many_socket(struct __sk_buff *skb)
{
	struct what w = {.kind = PACKET_OUTGOING, .flags = OUTGOING};
	if (skb->pkt_type != PACKET_OUTGOING)
		return 0;
	struct watched *on = find(skb, &w);
	if (!on)
		return 0;
	u32 by = LOAD(on->egress);
	if (by != SENT_BY_SOCKET && by != SENT_BY_BOTH)
		return 0;
	look_at(skb, &w);
	take(skb, &w);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
