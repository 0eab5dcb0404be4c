package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Config describes what the process still needs.
type Config struct {
	// User to switch to, by name or number. "" means the first of pcapper, nobody, the
	// owner of the first directory of Write, and root without its capabilities that can
	// do what is needed; "root" means no change. It has an effect only if the process
	// is root's.
	User string
	// Keep are the capabilities to keep, as far as the process has them.
	Keep []int
	// Read are files and directories that are read later, even if the files have been
	// replaced by then; Write are directories in which files are created and written.
	Read, Write []string
	// Append are files that are written to and may exist already.
	Append []string
	// Network means that TCP connections are made, or ports opened, later.
	Network bool
	// Exec means that other programs are started.
	Exec bool
	// Namespaces means that other processes' namespaces are entered, for which Keep
	// needs CAP_SYS_ADMIN and CAP_SYS_PTRACE. It disables Landlock, because a process
	// confined by Landlock may not inspect processes that are not.
	Namespaces bool
}

// Report says, one line each, what was done and what was not possible.
type Report []string

func (r *Report) add(what, format string, args ...any) {
	*r = append(*r, what+": "+fmt.Sprintf(format, args...))
}

// errThreads means that the Go runtime cannot make a system call in all threads of a
// program with cgo.
var errThreads = errors.New("a build with cgo cannot confine all its threads")

// Apply removes everything else from all threads, permanently. After an error the
// process is in an intermediate state and must end.
func Apply(cfg Config) (Report, error) {
	var r Report
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); errno != 0 {
		if errno == syscall.ENOTSUP {
			r.add("confined", "no: %v", errThreads)
			return r, nil
		}
		r.add("no_new_privs", "no: %v", errno)
	} else {
		r.add("no_new_privs", "yes")
	}
	if err := identity(cfg, &r); err != nil {
		return r, err
	}
	if cfg.Namespaces {
		r.add("landlock", "no: it would not let other processes' namespaces be entered")
	} else if err := landlock(cfg, &r); err != nil {
		return r, err
	}
	return r, seccomp(cfg, &r)
}

// identity changes the user and drops capabilities.
func identity(cfg Config, r *Report) error {
	had, err := capabilities()
	if err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	keep := uint64(0)
	for _, c := range cfg.Keep {
		keep |= 1 << c
	}
	keep &= had
	if had&(1<<unix.CAP_SETPCAP) != 0 {
		for c := range 64 {
			if keep&(1<<c) == 0 {
				all(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0) // EINVAL beyond the last
			}
		}
	}
	if os.Geteuid() == 0 && had&(1<<unix.CAP_SETUID) != 0 && had&(1<<unix.CAP_SETGID) != 0 {
		err := become(cfg, r)
		if errors.Is(err, errOverride) {
			keep |= had & (1 << unix.CAP_DAC_OVERRIDE)
		} else if err != nil {
			return err
		}
	} else {
		r.add("user", "%d as before", os.Geteuid())
	}
	if err := setCapabilities(keep); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	r.add("capabilities", "%s", names(keep))
	return nil
}

// errOverride means that even root can do what is needed only with CAP_DAC_OVERRIDE.
var errOverride = errors.New("needs CAP_DAC_OVERRIDE")

// account is a user to switch to.
type account struct {
	name     string
	uid, gid int
}

// become switches to the chosen user and keeps all capabilities for now.
func become(cfg Config, r *Report) error {
	a, why, err := choose(cfg)
	if err != nil {
		return err
	}
	if a.uid == 0 {
		r.add("user", "root without its capabilities: %s", why)
		if a.cannot(cfg) != "" { // possible only with a capability of root's
			return errOverride
		}
		return nil
	}
	if err := all(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("leave groups: %w", err)
	}
	if err := syscall.Setresgid(a.gid, a.gid, a.gid); err != nil {
		return fmt.Errorf("become group %d: %w", a.gid, err)
	}
	if err := syscall.Setresuid(a.uid, a.uid, a.uid); err != nil {
		return fmt.Errorf("become user %s: %w", a.name, err)
	}
	// Otherwise the process could not read its own /proc, which its metrics need. Other
	// processes of this user still cannot trace it, because it has capabilities.
	unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	r.add("user", "%s", a.name)
	return nil
}

// choose returns the user to switch to, or the reason to remain root.
func choose(cfg Config) (a account, why string, err error) {
	switch cfg.User {
	case "root", "0":
		return account{"root", 0, 0}, "as asked", nil
	case "":
		why = "there is no user pcapper or nobody"
		for _, name := range []string{"pcapper", "nobody", owner(cfg.Write)} {
			a, err := lookup(name)
			if err != nil || a.uid == 0 {
				continue
			}
			if why = a.cannot(cfg); why == "" {
				return a, "", nil
			}
		}
		return account{"root", 0, 0}, why, nil
	}
	if a, err = lookup(cfg.User); err != nil {
		return a, "", err
	}
	if why = a.cannot(cfg); why != "" {
		return a, "", errors.New(why)
	}
	return a, "", nil
}

// owner returns the user ID of the first directory's owner.
func owner(dirs []string) string {
	var st unix.Stat_t
	if len(dirs) == 0 || unix.Stat(dirs[0], &st) != nil {
		return ""
	}
	return strconv.Itoa(int(st.Uid))
}

func lookup(name string) (a account, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	if uid, bad := strconv.Atoi(name); err != nil && bad == nil && uid > 0 {
		return account{name, uid, uid}, nil // a container need not have a user database
	}
	if err != nil {
		return a, fmt.Errorf("no user %q", name)
	}
	a.name = u.Username
	if a.uid, err = strconv.Atoi(u.Uid); err != nil {
		return a, err
	}
	a.gid, err = strconv.Atoi(u.Gid)
	return a, err
}

// cannot returns something that the user may not do but must, or "".
func (a account) cannot(cfg Config) string {
	for _, dir := range cfg.Write {
		if !a.may(dir, 2|1) {
			return fmt.Sprintf("user %s may not write in %s", a.name, dir)
		}
	}
	for _, file := range cfg.Append {
		if _, err := os.Stat(file); err == nil && !a.may(file, 2) {
			return fmt.Sprintf("user %s may not write to %s", a.name, file)
		}
	}
	for _, file := range cfg.Read {
		if _, err := os.Stat(file); err == nil && !a.may(file, 4) {
			return fmt.Sprintf("user %s may not read %s", a.name, file)
		}
	}
	return ""
}

// may reports, based on permission bits, whether the user has all of want (4 read, 2
// write, 1 execute or search) on a path and can reach it. It ignores supplementary
// groups and access control lists, so it may report false although access is possible.
func (a account) may(path string, want uint32) bool {
	path, err := filepath.Abs(path)
	if err != nil {
		return false
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return false
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if !a.bits(dir, 1) {
			return false
		}
		if dir == "/" {
			break
		}
	}
	return a.bits(path, want)
}

func (a account) bits(path string, want uint32) bool {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return false
	}
	mode := st.Mode
	switch {
	case st.Uid == uint32(a.uid):
		mode >>= 6
	case st.Gid == uint32(a.gid):
		mode >>= 3
	}
	return mode&want == want
}

// capabilities returns the permitted set of this thread.
func capabilities() (uint64, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, err
	}
	return uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32, nil
}

// capNames are the names of the capabilities that this project's programs keep.
var capNames = map[int]string{
	unix.CAP_DAC_OVERRIDE: "cap_dac_override", unix.CAP_DAC_READ_SEARCH: "cap_dac_read_search", unix.CAP_NET_BIND_SERVICE: "cap_net_bind_service",
	unix.CAP_SYS_ADMIN: "cap_sys_admin", unix.CAP_SYS_PTRACE: "cap_sys_ptrace",
	unix.CAP_NET_RAW: "cap_net_raw", unix.CAP_NET_ADMIN: "cap_net_admin", unix.CAP_BPF: "cap_bpf", unix.CAP_PERFMON: "cap_perfmon",
}

func names(set uint64) string {
	var list []string
	for c := range 64 {
		if set&(1<<c) == 0 {
			continue
		}
		name := capNames[c]
		if name == "" {
			name = fmt.Sprintf("cap_%d", c)
		}
		list = append(list, name)
	}
	if len(list) == 0 {
		return "none"
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}
