package agent

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// holder is a process that listens on a port.
type holder struct {
	pid  int
	name string
	// watches is the interface that an agent, ours or the C program, watches; "" for
	// other programs.
	watches string
}

func (h holder) String() string {
	who := fmt.Sprintf("%s (process %d)", h.name, h.pid)
	if h.watches != "" {
		who += ", which watches " + h.watches + ","
	}
	return who
}

// hint suggests what to write instead, for an agent that is to watch an interface.
func (h holder) hint(known bool, port int, option, watched string) string {
	another := fmt.Sprintf("%s %d takes another port", option, freePort(port))
	switch {
	case !known:
		return "another pcapper may be running (root is told which process has the port); " + another
	case h.watches == watched:
		return fmt.Sprintf("any number of collectors can connect to that one; or %s", another)
	case h.watches != "" && !IsPattern(h.watches):
		return fmt.Sprintf("%s; or one agent for both: -i %s,%s", another, h.watches, watched)
	}
	return another
}

// findHolder finds the process that listens on a TCP port in this network namespace, as
// far as this user may see it.
func findHolder(port int) (holder, bool) {
	inodes := listening(func(p int) bool { return p == port })
	if len(inodes) == 0 {
		return holder{}, false
	}
	sockets, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range sockets {
		to, err := os.Readlink(fd)
		if err != nil || !strings.HasPrefix(to, "socket:[") {
			continue
		}
		if _, ours := inodes[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")]; ours {
			return describeHolder(filepath.Dir(filepath.Dir(fd)))
		}
	}
	return holder{}, false
}

// describeHolder describes a process from its directory in /proc.
func describeHolder(dir string) (h holder, ok bool) {
	var err error
	if h.pid, err = strconv.Atoi(filepath.Base(dir)); err != nil {
		return h, false
	}
	comm, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil {
		return h, false
	}
	h.name = strings.TrimSpace(string(comm))
	line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	args := strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00")
	if base := filepath.Base(args[0]); base == "pcapper" || base == "pcapper-nats" {
		h.watches = watchedBy(args[1:])
	}
	return h, true
}

// watchedBy returns the interface that an agent with these arguments watches, or "" if
// it watches several namespaces.
func watchedBy(args []string) string {
	name := DefaultInterface
	for i, arg := range args {
		flag, value, glued := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if flag = strings.TrimPrefix(flag, "-"); !strings.HasPrefix(arg, "-") {
			continue
		}
		if !glued && i+1 < len(args) {
			value = args[i+1]
		}
		switch flag {
		case "i":
			name = value
		case "netns":
			return "" // many
		}
	}
	return name
}

// listening returns the inodes of the TCP sockets that listen on wanted ports, parsed
// from the format in proc_pid_net(5): local address and port, peer, state (0A is
// listening), four fields, user, timeout, inode.
func listening(wanted func(port int) bool) map[string]int {
	inodes := map[string]int{}
	for _, name := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		table, _ := os.ReadFile(name)
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" {
				continue
			}
			_, text, _ := strings.Cut(f[1], ":")
			if b, err := hex.DecodeString(text); err == nil && len(b) == 2 {
				if port := int(b[0])<<8 | int(b[1]); wanted(port) {
					inodes[f[9]] = port
				}
			}
		}
	}
	return inodes
}

// freePort returns the next higher port that nobody listens on.
func freePort(port int) int {
	used := listening(func(p int) bool { return p > port })
	var ports []int
	for _, p := range used {
		ports = append(ports, p)
	}
	for next := port + 1; next <= 65535; next++ {
		if !slices.Contains(ports, next) {
			return next
		}
	}
	return DefaultPort
}
