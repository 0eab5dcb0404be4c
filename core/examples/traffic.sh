#!/bin/sh
# Makes mgen traffic between the nodes of the example, from a hook of CORE's
# runtime state or by hand: traffic.sh SESSION_DIR. It runs on the host and
# ends with the session.
set -eu
cd "${1:-$SESSION_DIR}"

# on NODE EVENT...: mgen in a node.
on() {
	node=$1
	shift
	vcmd -c "$PWD/$node" -- mgen "$@" output /dev/null </dev/null >/dev/null 2>&1 &
}

on n1 event "listen udp 5001-5003" event "join 239.9.9.9 interface eth0" \
	event "on 101 udp src 4101 dst 10.0.0.2/5001 periodic [50 500]" \
	event "on 201 udp src 4201 dst 239.9.9.9/5003 periodic [10 1000] interface eth0"
on n2 event "listen udp 5001-5003" event "join 239.9.9.9 interface eth0" \
	event "on 102 udp src 4102 dst 10.0.0.3/5002 poisson [100 200]"
on n3 event "listen udp 5001-5003" event "join 239.9.9.9 interface eth0"
on n4 event "listen udp 5001-5003" event "join 239.9.9.9 interface eth0"
