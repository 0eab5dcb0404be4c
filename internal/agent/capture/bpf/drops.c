// The kernel half of capture.Drops: it tells of each packet that the kernel drops on one of
// the watched interfaces, with the number of the kernel's reason. One program serves all
// interfaces, in any network namespaces. It runs whenever anything in the kernel drops a
// packet, so it looks up the interface before anything else.
//
// `go generate` in the directory above compiles it; the objects are committed.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define CORE __attribute__((preserve_access_index))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(x) ((u16)__builtin_bswap16(x))
#else
#define be16(x) ((u16)(x))
#endif

// Of linux/bpf.h, by number: see bpf-helpers(7).
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static long (*bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static void *(*bpf_ringbuf_reserve)(void *ringbuf, u64 size, u64 flags) = (void *)131;
static struct task_struct *(*bpf_get_current_task_btf)(void) = (void *)158;
static void (*bpf_ringbuf_submit)(void *data, u64 flags) = (void *)132;

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_RINGBUF 27

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
struct sock_common {
	u16 skc_family;
	possible_net_t skc_net;
} CORE;
struct sock {
	struct sock_common __sk_common;
} CORE;
struct nsproxy {
	struct net *net_ns;
} CORE;
struct task_struct {
	struct nsproxy *nsproxy;
} CORE;
struct dst_entry {
	struct net_device *dev;
} CORE;
struct sk_buff {
	struct net_device *dev;
	unsigned long _skb_refdst;
	u32 len;
	int skb_iif;
	u16 protocol; // network byte order
	u16 network_header;
	u32 tail, end;
	unsigned char *head, *data;
} CORE;
typedef struct {
	int counter;
} atomic_t;
struct skb_shared_info {
	u16 gso_size;
	u32 gso_type;
	atomic_t dataref;
} CORE;
#define SKB_GSO_TCPV4 (1 << 0)
#define SKB_GSO_TCPV6 (1 << 4)
#define SKB_GSO_UDP_L4 (1 << 17)

// kfunc of Linux 6.2.
extern void *bpf_rdonly_cast(const void *p, u32 btf_id) __attribute__((section(".ksyms")));
#define core_type_id(t) __builtin_btf_type_id(*(t *)0, 1)

#define AF_PACKET 17
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

// What user space sets before the program is loaded: reasons by number, as bits.
#define REASONS 256
const volatile u64 harmless[REASONS / 64]; // nothing is lost
const volatile u64 inward[REASONS / 64];   // happens to packets that come in only
const volatile u32 unspecified;            // the number of NOT_SPECIFIED
const volatile u32 checksum;               // the number of UDP_CSUM

#define SNAP 256 // bytes of a packet that are kept at most

// event is what is told of a packet, in host byte order.
struct event {
	u64 time; // of CLOCK_MONOTONIC, ns
	u32 id;   // of the interface
	u32 reason;
	u32 len; // of the packet from its IP header on
	u16 cap; // bytes of data
	u16 protocol;
	u16 gso_size;
	u8 gso_kind; // as in struct virtio_net_hdr
	u8 outgoing;
	u32 unused;
	u8 data[SNAP];
};

// UINT(name, val) declares a number in a map's definition, in the form that BTF describes.
#define UINT(name, val) int(*name)[val]
struct {
	UINT(type, BPF_MAP_TYPE_RINGBUF);
	UINT(max_entries, 2 << 20); // a process that maps it has twice as much
} events SEC(".maps");

struct place {
	u32 inum; // of the network namespace
	u32 ifindex;
};
struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(key_size, sizeof(struct place));
	UINT(value_size, 4);
	UINT(max_entries, 4096);
} drop_places SEC(".maps");

struct tally {
	u64 untold;   // the ring was full
	u64 harmless; // frees that are no losses
};
struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(key_size, 4);
	UINT(value_size, sizeof(struct tally));
	UINT(max_entries, 4096);
} tallies SEC(".maps");

INLINE int has(const volatile u64 *set, u32 reason)
{
	return reason < REASONS && set[reason / 64 % (REASONS / 64)] >> reason % 64 & 1;
}

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

// find says on which interface a packet is. One that a socket has taken has lost its device,
// whose place in the structure is used for something else. A wrong checksum may be noticed
// by the process that reads it, without telling the socket; namespace and socket are its own.
INLINE u32 *find(struct sk_buff *skb, u32 reason, struct sock *sk, struct place *at, int *outgoing)
{
	int from = skb->skb_iif;
	*outgoing = 0;
	if (sk && from) {
		at->inum = sk->__sk_common.skc_net.net->ns.inum;
		at->ifindex = from;
		return bpf_map_lookup_elem(&drop_places, at);
	}
	struct net_device *dev = skb->dev;
	if (!dev) { // on its way out, before its device is set
		unsigned long dst = skb->_skb_refdst & ~1UL;
		if (!dst)
			return 0;
		dev = ((struct dst_entry *)bpf_rdonly_cast((void *)dst, core_type_id(struct dst_entry)))->dev;
	}
	if (reason == checksum && from && from != dev->ifindex) {
		at->inum = bpf_get_current_task_btf()->nsproxy->net_ns->ns.inum;
		at->ifindex = from;
		return bpf_map_lookup_elem(&drop_places, at);
	}
	at->inum = dev->nd_net.net->ns.inum;
	at->ifindex = dev->ifindex;
	*outgoing = from != dev->ifindex;
	return bpf_map_lookup_elem(&drop_places, at);
}

INLINE int dropped(struct sk_buff *skb, u32 reason, struct sock *sk)
{
	struct place at = {};
	int outgoing;
	u32 *found = find(skb, reason, sk, &at, &outgoing);
	if (!found)
		return 0;
	u32 id = *found;
	struct tally *tally = bpf_map_lookup_elem(&tallies, &id);
	if (!tally)
		return 0;
	unsigned char *head = skb->head;
	const struct skb_shared_info *info =
		bpf_rdonly_cast(head + skb->end, core_type_id(struct skb_shared_info));
	u16 protocol = be16(skb->protocol);
	// A packet socket's copy, and one that is freed for no reason while others of it live on.
	int copy = (sk && sk->__sk_common.skc_family == AF_PACKET) ||
		   (reason == unspecified && (info->dataref.counter & 0xffff) > 1);
	if (copy || has(harmless, reason) || (protocol != ETH_P_IP && protocol != ETH_P_IPV6)) {
		__sync_fetch_and_add(&tally->harmless, 1);
		return 0;
	}
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		__sync_fetch_and_add(&tally->untold, 1);
		return 0;
	}
	u32 begin = skb->network_header, end = skb->tail;
	u32 cap = end > begin ? end - begin : 0;
	if (cap > SNAP)
		cap = SNAP;
	e->time = bpf_ktime_get_ns();
	e->id = id;
	e->reason = reason;
	e->len = skb->len + (u32)(skb->data - head) - begin;
	e->protocol = protocol;
	e->gso_size = info->gso_size;
	e->gso_kind = e->gso_size ? gso_kind(info->gso_type) : 0;
	e->outgoing = outgoing && !has(inward, reason);
	e->unused = 0;
	e->cap = bpf_probe_read_kernel(e->data, cap, head + begin) ? 0 : cap;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

// The tracepoint of Linux 6.11 and later tells the socket that the packet was for.
SEC("tp_btf/kfree_skb") int drops_socket(u64 *ctx)
{
	return dropped((struct sk_buff *)ctx[0], ctx[2], (struct sock *)ctx[3]);
}

SEC("tp_btf/kfree_skb") int drops_plain(u64 *ctx) { return dropped((struct sk_buff *)ctx[0], ctx[2], 0); }

char _license[] SEC("license") = "Dual BSD/GPL";
