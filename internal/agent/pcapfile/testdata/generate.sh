#!/bin/bash
# Makes the captures of this directory with the real tools: tcpdump, dumpcap,
# editcap, mergecap, text2pcap and gzip, from a few packets between two network
# namespaces. Run as root, here. Afterwards `go test -run Tools -update` writes
# the golden files, with tshark. Every run gives other times and checksums.
set -eu
cd "$(dirname "$0")"
a=pcapfile-a$$ b=pcapfile-b$$
tunpid=
tmp=$(mktemp -d)
chmod 755 "$tmp"
cleanup() {
	kill "$tunpid" || true
	ip netns del "$a" || true
	ip netns del "$b" || true
	rm -r "$tmp"
}
trap cleanup EXIT
ip netns add "$a"
ip netns add "$b"
on() { ip netns exec "$@"; }

ip link add eth0 netns "$a" address 02:00:00:00:00:0a type veth peer name eth0 netns "$b" address 02:00:00:00:00:0b
for n in 1:"$a" 2:"$b"; do
	i=${n%%:*} ns=${n#*:}
	on "$ns" ip link set lo up
	on "$ns" ip link set eth0 up
	on "$ns" ip addr add "10.9.0.$i/24" dev eth0
	on "$ns" ip addr add "fd09::$i/64" dev eth0 nodad
done

# tun0 has no link header and no address: LINKTYPE_RAW. It carries what somebody
# reads from it.
ip netns exec "$a" python3 -c '
import fcntl, os, struct
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH22x", b"tun0", 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
while True:
    os.read(tun, 65536)
' >/dev/null 2>&1 &
tunpid=$!
until on "$a" ip link set tun0 up 2>/dev/null; do sleep 0.1; done
on "$a" ip addr add 10.10.0.1/24 dev tun0

# Datagrams of several lengths, to B answered by "port unreachable".
traffic() {
	on "$a" ip neigh flush all
	for to in 10.9.0.2 fd09::2 10.10.0.2 127.0.0.1; do
		for n in 1 27 100; do
			on "$a" bash -c "head -c $n /dev/zero | tr '\0' x >/dev/udp/$to/5000" || true
		done
	done
	sleep 0.3
}

# capture COMMAND...: runs it in namespace a while there is traffic.
capture() {
	ip netns exec "$a" "$@" 2>"$tmp/log" &
	local pid=$!
	until grep -q -e 'listening on' -e 'File:' "$tmp/log"; do sleep 0.1; done
	sleep 0.5
	traffic
	kill -INT "$pid"
	wait "$pid"
}

dump() { capture tcpdump -Z root --immediate-mode "$@"; }
dump -i eth0 -w ether.pcap
dump -i eth0 --time-stamp-precision=nano -s 60 -w ether-nano-snap60.pcap
dump -i any -w sll2.pcap
dump -i any -y LINUX_SLL -w sll.pcap
dump -i tun0 -w raw.pcap
dump -i lo -w lo.pcap
capture dumpcap -q -i eth0 -i tun0 -i any -w "$tmp/dumpcap.pcapng"
cp "$tmp/dumpcap.pcapng" dumpcap.pcapng

editcap -F nsecpcap ether.pcap editcap-nsec.pcap
editcap -F modpcap ether.pcap editcap-modified.pcap
editcap -F pcapng ether-nano-snap60.pcap editcap-nano.pcapng
mergecap -w mergecap.pcapng ether.pcap sll2.pcap raw.pcap lo.pcap
mergecap -F pcap -a -w mergecap.pcap ether.pcap lo.pcap
gzip -9n <sll2.pcap >sll2.pcap.gz
gzip -9n <mergecap.pcapng >mergecap.pcapng.gz

# Link types that no Linux interface has, in front of real packets.
hex() { # PREFIX LINKTYPE OUT: a link header before the packets of raw.pcap
	tshark -r raw.pcap -Y ip -T json -x 2>/dev/null |
		awk -v p="$1" -F'"' '/"frame_raw"/ {getline; h = p $2; printf "%s ", (n++ % 2) ? "O" : "I"
			printf "1700000000.%06d 0000", n * 1009
			for (i = 1; i < length(h); i += 2) printf " %s", substr(h, i, 2); print ""}' |
		text2pcap -q -D -t '%s.%f' -F "$4" -l "$2" - "$3"
}
hex 02000000 0 null.pcap pcap
hex 00000002 108 loop.pcap pcap
hex ff030021 9 ppp.pcap pcap
hex 21 9 ppp-compressed.pcap pcap
hex "" 228 ipv4.pcap pcap
hex "" 101 text2pcap-flags.pcapng pcapng
chmod 644 -- *.pcap *.pcapng *.gz
