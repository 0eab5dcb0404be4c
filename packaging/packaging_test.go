// Package packaging holds no code: its tests are of what the programs come in.
package packaging

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/test/doclinks"
)

// programs are all, built as in a release but for the page of recollect.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "packaging")
	if err != nil {
		return "", err
	}
	for _, args := range [][]string{{"-o", dir, "./cmd/pcapper", "./cmd/recollect"}, {"-tags", "nats", "-o", dir + "/pcapper-nats", "./cmd/pcapper"}} {
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags", "-s -w -X main.version=1.0"}, args...)...)
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w\n%s", err, out)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := programs(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

func bin(t *testing.T) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestUnitsAreHardened: systemd's own judgement, from 0 (best) to 10.
func TestUnitsAreHardened(t *testing.T) {
	dir := t.TempDir()
	for unit, name := range map[string]string{"pcapper@.service": "pcapper@eth0.service", "recollect.service": "recollect.service"} {
		data, err := os.ReadFile(filepath.Join("systemd", unit))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("systemd-analyze", "security", "--offline=true", "./"+name)
		cmd.Dir = dir
		out, _ := cmd.CombinedOutput()
		m := regexp.MustCompile(`Overall exposure level for \S+: ([\d.]+)`).FindSubmatch(out)
		if m == nil {
			t.Fatalf("%s: no verdict in\n%s", unit, out)
		}
		if level, err := strconv.ParseFloat(string(m[1]), 64); err != nil || level > 2 {
			t.Errorf("%s: exposure %s, want at most 2.0\n%s", unit, m[1], out)
		}
	}
}

// TestCompletionsKnowAllFlags: those of the programs' own help, and no others.
func TestCompletionsKnowAllFlags(t *testing.T) {
	dir := t.TempDir()
	made := exec.Command("go", "run", "./completions", dir, filepath.Join(bin(t), "pcapper"), filepath.Join(bin(t), "recollect"))
	if out, err := made.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for program, pattern := range map[string]string{"pcapper": `(?m)^  -([\w-]+)`, "recollect": `(?:^|[ \[,])-([a-z][\w-]*)`} {
		out, err := exec.Command(filepath.Join(bin(t), program), "-h").Output()
		if err != nil {
			t.Fatal(err)
		}
		help := string(out)
		if program == "recollect" { // its examples have other programs' flags
			help, _, _ = strings.Cut(help, "\nThe configuration names")
		}
		want := flags(regexp.MustCompile(pattern), help)
		for file, pattern := range map[string]string{
			program + ".bash": `[ "]-([a-z][\w-]*|D)`, "_" + program: `'-([\w-]+)\[`, program + ".fish": ` -o ([\w-]+) `,
		} {
			data, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			text := string(data)
			switch { // of the program itself, not of its commands
			case file == "_"+program:
				text = text[strings.LastIndex(text, "\n_arguments"):]
			case strings.HasSuffix(file, ".fish"):
				text = regexp.MustCompile(`(?m)^complete \S+ \S+ -n '__fish.*\n`).ReplaceAllString(text, "")
			}
			if strings.HasSuffix(file, ".bash") { // the list of flags is its last one
				text = text[strings.LastIndex(text, "compgen -W"):]
				text = strings.Replace(text, "compgen -W", "", 1)
				text, _, _ = strings.Cut(text, " -- ")
			}
			if got := flags(regexp.MustCompile(pattern), text); !slices.Equal(got, want) {
				t.Errorf("%s has\n%v, the program\n%v", file, got, want)
			}
		}
		testCommands(t, dir, program)
	}
	for line, want := range map[string]string{
		"pcapper -tls-c": "-tls-cert", "recollect -tls-c": "-tls-cert", "pcapper -m ": "spoof",
		"pcapper cert -for": "-force", "recollect q": "query", "recollect -q": "-query",
		"recollect query -rela": "-relayed", "recollect query -format p": "parquet",
		"recollect replay -rec": "-recorded-times", "recollect replay -c packaging_t": "packaging_test.go",
		"recollect replay packaging_t": "packaging_test.go", "recollect view -li": "-lines",
	} {
		program, _, _ := strings.Cut(line, " ")
		script := fmt.Sprintf(`. %s/%s.bash; COMP_WORDS=($1); [ "${1%% }" = "$1" ] || COMP_WORDS+=(""); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _%[2]s; echo "${COMPREPLY[@]}"`, dir, program)
		out, err := exec.Command("bash", "-c", script, "-", line).CombinedOutput()
		if err != nil || !slices.Contains(strings.Fields(string(out)), want) {
			t.Errorf("bash completes %q to %q, %v; want %s", line, out, err, want)
		}
	}
}

// testCommands: commands are offered with the options of their own help, and no
// others.
func testCommands(t *testing.T, dir, program string) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, command := range map[string][]string{"pcapper": {"cert"}, "recollect": {"query", "replay", "view"}}[program] {
		help, err := exec.Command(filepath.Join(bin(t), program), command, "-h").Output()
		if err != nil {
			t.Fatal(err)
		}
		want := flags(regexp.MustCompile(`(?m)(?:^  |[A-Z], )-([a-z][\w-]*)`), string(help))
		_, bash, _ := strings.Cut(read(program+".bash"), "\n\t"+command+")\n")
		bash, _, _ = strings.Cut(bash, "return")
		_, zsh, _ := strings.Cut(read("_"+program), "\n"+command+")\n")
		zsh, _, _ = strings.Cut(zsh, "return")
		for shell, got := range map[string][]string{
			"bash": flags(regexp.MustCompile(`[ "]-([a-z][\w-]*)`), strings.NewReplacer("-W", "", "-f --", "", "-o filenames", "", " -- ", "").Replace(bash)),
			"zsh":  flags(regexp.MustCompile(`'-([\w-]+)\[`), zsh),
			"fish": flags(regexp.MustCompile(`(?m)_from `+command+`' -o ([\w-]+) `), strings.ReplaceAll(read(program+".fish"), "not __fish_seen_subcommand_from", "")),
		} {
			if !slices.Equal(got, want) {
				t.Errorf("%s %s in %s has\n%v, the program\n%v", program, command, shell, got, want)
			}
		}
	}
}

func flags(pattern *regexp.Regexp, text string) (list []string) {
	for _, m := range pattern.FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// TestSBOM: the document names each module that the Go tool sees.
func TestSBOM(t *testing.T) {
	cmd := exec.Command("go", "run", "./packaging/sbom", "-version", "1.0", filepath.Join(bin(t), "pcapper"), filepath.Join(bin(t), "recollect"))
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1000000000")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		SPDXVersion       string
		DocumentNamespace string
		CreationInfo      struct{ Created string }
		Packages          []struct{ Name, VersionInfo, SPDXID, LicenseConcluded string }
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		t.Fatal(err)
	}
	have, licenses := map[string]bool{}, map[string]string{}
	for _, p := range doc.Packages {
		have[p.Name+"@"+p.VersionInfo] = true
		licenses[p.Name] = p.LicenseConcluded
	}
	for name, want := range map[string]string{
		"pcapper": "BSD-3-Clause", "stdlib": "BSD-3-Clause", "github.com/cilium/ebpf": "MIT", "github.com/vishvananda/netlink": "Apache-2.0",
		"github.com/twpayne/go-geom": "BSD-2-Clause", "github.com/klauspost/compress": "Apache-2.0 AND BSD-3-Clause AND MIT",
	} {
		if licenses[name] != want {
			t.Errorf("%s has the license %q, want %q", name, licenses[name], want)
		}
	}
	for _, program := range []string{"pcapper", "recollect"} { // as -version says
		said, err := exec.Command(filepath.Join(bin(t), program), "-version").Output()
		if version, ok := strings.CutPrefix(strings.TrimSpace(string(said)), program+" "); err != nil || !ok || !have[program+"@"+version] {
			t.Errorf("%s says that it is %q, which is not in the document", program, said)
		}
	}
	if doc.CreationInfo.Created != "2001-09-09T01:46:40Z" {
		t.Errorf("created %q", doc.CreationInfo.Created)
	}
	deps, err := exec.Command("go", "version", "-m", filepath.Join(bin(t), "pcapper"), filepath.Join(bin(t), "recollect")).Output()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(deps)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "dep" {
			if n++; !have[f[1]+"@"+f[2]] {
				t.Errorf("no %s %s", f[1], f[2])
			}
		}
	}
	if n < 5 || doc.SPDXVersion != "SPDX-2.3" || !strings.HasPrefix(doc.DocumentNamespace, "https://") {
		t.Errorf("%d modules; %+v", n, doc)
	}
}

// TestCollectorUnitIsQuiet: a line per packet would fill the disk or the journal.
func TestCollectorUnitIsQuiet(t *testing.T) {
	unit, err := os.ReadFile("systemd/recollect.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nStandardOutput=null\n", "\nStandardError=journal\n"} {
		if !strings.Contains(string(unit), want) {
			t.Errorf("recollect.service has no %q", strings.TrimSpace(want))
		}
	}
}

// TestAgentIsSmall: the agent runs on every host, so few modules are in it, and
// its build with NATS is little larger.
func TestAgentIsSmall(t *testing.T) {
	size := map[string]int64{}
	for program, most := range map[string]int{"pcapper": 15, "pcapper-nats": 20} {
		path := filepath.Join(bin(t), program)
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(info.Deps); n > most {
			t.Errorf("%s has %d modules, want %d at most", program, n, most)
		}
		file, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		size[program] = file.Size()
	}
	if more := size["pcapper-nats"] - size["pcapper"]; more > 2_000_000 || more < 100_000 {
		t.Errorf("NATS makes the agent %d bytes larger", more)
	}
}

// TestAgentAlone: an agent in an empty root, as in the image FROM scratch, with
// the arguments that the Dockerfile gives it.
func TestAgentAlone(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{root, filepath.Join(root, "proc")} { // the temporary directory is for root only
		os.MkdirAll(dir, 0o755)
		os.Chmod(dir, 0o755)
	}
	data, err := os.ReadFile(filepath.Join(bin(t), "pcapper"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "pcapper"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	dockerfile, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`ENTRYPOINT (\[.*\])`).FindSubmatch(dockerfile)
	var entry []string
	if m == nil || json.Unmarshal(m[1], &entry) != nil {
		t.Fatalf("no ENTRYPOINT in\n%s", dockerfile)
	}
	script := fmt.Sprintf("mount -t proc proc %[1]s/proc && mkdir %[1]s/dev && mknod -m 666 %[1]s/dev/null c 1 3; exec chroot %[1]s %[2]s -i lo -m none -p 17074 -check",
		root, strings.Join(entry, " "))
	out, err := exec.Command("unshare", "-m", "sh", "-c", script).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "user: 65534") || !strings.Contains(string(out), "all is well") {
		t.Errorf("%v\n%s", err, out)
	}
}

// machine is this one's file system, with whatever is done to it gone after
// the test.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	for _, name := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=/,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	for _, name := range []string{"proc", "dev"} {
		if err := unix.Mount("/"+name, filepath.Join(root, name), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(filepath.Join(root, name), unix.MNT_DETACH) })
	}
	return &machine{t, root}
}

func (m *machine) run(args ...string) string {
	m.t.Helper()
	cmd := exec.Command("chroot", append([]string{m.root}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		m.t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return string(out)
}

func (m *machine) has(path string) bool {
	_, err := os.Lstat(filepath.Join(m.root, path))
	return !errors.Is(err, fs.ErrNotExist)
}

// traces are files of ours.
func (m *machine) traces() (list []string) {
	for _, dir := range []string{"etc", "usr/bin", "usr/share", "lib/systemd", "var/log", "var/lib/dpkg/info"} {
		filepath.WalkDir(filepath.Join(m.root, dir), func(path string, _ fs.DirEntry, err error) error {
			name := strings.ToLower(filepath.Base(path))
			if err == nil && (strings.Contains(name, "pcapper") || strings.Contains(name, "recollect")) {
				list = append(list, strings.TrimPrefix(path, m.root))
			}
			return nil
		})
	}
	return list
}

// TestDebianPackage: it installs, starts as its unit says, upgrades with the
// administrator's changes kept, is removed and purged without a trace.
func TestDebianPackage(t *testing.T) {
	out := t.TempDir()
	packages := map[string]string{}
	for _, version := range []string{"1.0", "1.1"} {
		cmd := exec.Command("../scripts/deb")
		cmd.Env = append(os.Environ(), "VERSION="+version, "BIN="+bin(t), "OUT="+out, "COMPRESS=none")
		name, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		packages[version] = strings.TrimSpace(string(name))
	}
	m := newMachine(t)
	before := m.traces()
	install := func(version string) {
		data, err := os.ReadFile(packages[version])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.root, "p.deb"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		m.run("dpkg", "--no-triggers", "--force-unsafe-io", "--force-depends", "-i", "/p.deb")
	}
	install("1.0")
	for _, path := range []string{
		"/usr/bin/pcapper", "/usr/bin/recollect", "/lib/systemd/system/pcapper@.service", "/lib/systemd/system/recollect.service",
		"/usr/share/man/man1/pcapper.1.gz", "/usr/share/bash-completion/completions/pcapper", "/usr/share/doc/pcapper/sbom.spdx.json",
		"/usr/share/doc/pcapper/copyright", "/etc/default/pcapper", "/usr/bin/pcapper-core",
		"/usr/share/pcapper/core/install-core", "/usr/share/pcapper/core/pcapper_service.py", "/usr/share/doc/pcapper/core/examples/wlan.xml",
	} {
		if !m.has(path) {
			t.Errorf("no %s", path)
		}
	}
	if got := m.run("pcapper", "-version"); got != "pcapper 1.0\n" {
		t.Errorf("version %q", got)
	}
	if got := m.run("dpkg", "-V", "pcapper"); got != "" {
		t.Errorf("dpkg -V: %s", got)
	}
	if broken, err := doclinks.Broken(filepath.Join(m.root, "/usr/share/doc/pcapper")); err != nil || len(broken) > 0 || !m.has("/usr/share/doc/pcapper/README.md") {
		t.Errorf("links in the package's documents lead nowhere: %q, %v", broken, err)
	}
	m.run("logrotate", "-d", "/etc/logrotate.d/pcapper")
	m.startUnit()

	if err := os.WriteFile(filepath.Join(m.root, "etc/default/pcapper"), []byte("PCAPPER_OPTS=-stats\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	install("1.1")
	if data, err := os.ReadFile(filepath.Join(m.root, "etc/default/pcapper")); err != nil || string(data) != "PCAPPER_OPTS=-stats\n" {
		t.Errorf("the upgrade left %q of the administrator's file, %v", data, err)
	}
	if got := m.run("dpkg-query", "-W", "-f", "${Version} ${Status}", "pcapper"); got != "1.1 install ok installed" {
		t.Errorf("after the upgrade: %s", got)
	}
	m.run("dpkg", "--no-triggers", "-r", "pcapper")
	if m.has("/usr/bin/pcapper") || !m.has("/etc/default/pcapper") {
		t.Error("removed: the program stays, or the configuration does not")
	}
	m.run("dpkg", "--no-triggers", "-P", "pcapper")
	if after := m.traces(); !slices.Equal(after, before) {
		t.Errorf("purged, these are left: %q, before %q", after, before)
	}
	if exec.Command("chroot", m.root, "getent", "passwd", "pcapper").Run() == nil {
		t.Error("purged, the user is left")
	}
}

// startUnit does what systemd does with the agent's unit: it starts it as the
// user and with the capabilities that the unit names, and waits for it to say
// that it is ready.
func (m *machine) startUnit() {
	t := m.t
	t.Helper()
	unit, err := os.ReadFile(filepath.Join(m.root, "lib/systemd/system/pcapper@.service"))
	if err != nil {
		t.Fatal(err)
	}
	setting := func(name string) string {
		v := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindSubmatch(unit)
		if v == nil {
			t.Fatalf("no %s in the unit", name)
		}
		return string(v[1])
	}
	logs := filepath.Join(m.root, "var/log", setting("LogsDirectory"))
	if err := os.MkdirAll(logs, 0o750); err != nil {
		t.Fatal(err)
	}
	m.run("chown", setting("User")+":"+setting("Group"), "/var/log/"+setting("LogsDirectory"))
	line := strings.NewReplacer("%I", "lo", "${PCAPPER_LOG}", "/var/log/pcapper/lo.log", "$PCAPPER_OPTS", "-v -m none -p 17075").Replace(setting("ExecStart"))
	var caps []string
	for _, name := range strings.Fields(strings.ToLower(setting("AmbientCapabilities"))) {
		caps = append(caps, "+"+strings.TrimPrefix(name, "cap_"))
	}
	set := strings.Join(caps, ",")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(m.root, "run", "notify-test"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	os.Chmod(filepath.Join(m.root, "run", "notify-test"), 0o777)
	args := append([]string{m.root, "setpriv", "--reuid", setting("User"), "--regid", setting("Group"), "--clear-groups", "--no-new-privs",
		"--inh-caps", "-all," + set, "--ambient-caps", "-all," + set, "--bounding-set", "-all," + set}, strings.Fields(line)...)
	cmd := exec.Command("chroot", args...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET=/run/notify-test", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	buf := make([]byte, 1000)
	manager.SetReadDeadline(time.Now().Add(30 * time.Second))
	n, err := manager.Read(buf)
	if err != nil || !strings.HasPrefix(string(buf[:n]), "READY=1\nSTATUS=watching lo") {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the unit's command says %q, %v\n%s", buf[:n], err, said.String())
	}
	conn, err := net.Dial("tcp", "127.0.0.1:17075")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	done := make(chan struct{})
	defer close(done)
	go func() {
		for { // traffic on lo
			select {
			case <-done:
				return
			default:
			}
			if c, err := net.Dial("udp", "127.0.0.1:9"); err == nil {
				c.Write([]byte("x"))
				c.Close()
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	if _, err := conn.Read(buf[:28]); err != nil {
		t.Errorf("no record from the unit's agent: %v\n%s", err, said.String())
	}
	m.rotate(cmd.Process.Pid, "127.0.0.1:17075")
	conn.Close()
	cmd.Process.Signal(unix.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("stopped, it ends with %v\n%s", err, said.String())
	}
	if !strings.Contains(said.String(), "capabilities: cap_bpf cap_net_admin cap_net_raw cap_perfmon") && !strings.Contains(said.String(), "capabilities: cap_net_raw") {
		t.Errorf("it said\n%s", said.String())
	}
	if !m.has("/var/log/pcapper/lo.log") {
		t.Error("it wrote no log")
	}
}

// TestManPages: man-db and mandoc show the same words, and each quotation ends
// before the next begins (macros that enclose others are easily got wrong).
func TestManPages(t *testing.T) {
	pages, err := filepath.Glob("../man/*.[0-9]")
	if err != nil || len(pages) < 3 {
		t.Fatalf("man pages %v, %v", pages, err)
	}
	for _, page := range pages {
		var shown [2][]string
		for i, command := range []string{"MANWIDTH=1000 man -P cat --nh --nj -l", "mandoc -T utf8 -O width=1000"} {
			cmd := exec.Command("sh", "-c", command+` "$1" | col -bx`, "-", page)
			cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
			out, err := cmd.Output()
			text := string(out)
			if _, text, _ = strings.Cut(text, "\nDESCRIPTION\n"); err != nil || text == "" {
				t.Fatalf("%s %s: %v", command, page, err)
			}
			text = strings.TrimRight(text, "\n")
			text = text[:strings.LastIndexByte(text, '\n')] // the footer
			shown[i] = strings.Fields(text)
			if bad := unevenQuotes(text); bad != "" {
				t.Errorf("%s %s: quotes do not match: %s", command, page, bad)
			}
		}
		if !slices.Equal(shown[0], shown[1]) {
			t.Errorf("man-db and mandoc differ in %s", page)
		}
	}
}

// unevenQuotes finds the line in which a quotation has no end, or no beginning.
func unevenQuotes(text string) string {
	for line := range strings.Lines(text) {
		open := 0
		for _, r := range line {
			switch r {
			case '‘':
				open++
			case '’':
				open--
			}
			if open < 0 || open > 1 {
				return line
			}
		}
		if open != 0 {
			return line
		}
	}
	return ""
}

// rotate has logrotate rotate the logs of a running agent, and of a collector
// whose output is appended to one as by the unit: afterwards both write to the
// new one, and the old one does not grow.
func (m *machine) rotate(agent int, addr string) {
	t := m.t
	t.Helper()
	// As systemd opens it for StandardOutput=append: with that UMask.
	lines, err := os.OpenFile(filepath.Join(m.root, "var/log/recollect.log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	m.write("/run/agents.conf", "a:"+addr+"\n")
	collector := exec.Command("chroot", m.root, "setpriv", "--reuid", "pcapper", "--regid", "pcapper", "--clear-groups", "--no-new-privs",
		"/usr/bin/recollect", "-c", "/run/agents.conf", "-lines")
	collector.Stdout = lines
	if err := collector.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { collector.Process.Kill(); collector.Wait() }()

	// What the postrotate script calls, for the agent that runs without systemd.
	m.run("mkdir", "-p", "/run/systemd/system")
	defer m.run("rmdir", "/run/systemd/system")
	m.write("/usr/sbin/systemctl", fmt.Sprintf("#!/bin/sh\n[ \"$*\" != 'kill --kill-who=main -s HUP pcapper@*.service' ] || kill -HUP %d\n", agent))
	defer m.run("rm", "/usr/sbin/systemctl")

	logs := []string{"/var/log/pcapper/lo.log", "/var/log/recollect.log"}
	for turn := range 2 {
		for _, name := range logs {
			m.await(name+" is written to", func() bool { return m.size(name) > 0 })
		}
		out := m.run("logrotate", "-f", "-s", "/run/logrotate.state", "/etc/logrotate.d/pcapper")
		if out != "" {
			t.Errorf("logrotate says\n%s", out)
		}
		for _, name := range logs {
			m.await(name+" is begun anew", func() bool { return m.size(name) > 0 })
			old := m.size(name + ".1")
			before := m.size(name)
			m.await(name+" grows", func() bool { return m.size(name) > before })
			if now := m.size(name + ".1"); now != old || old <= 0 {
				t.Errorf("turn %d: the old %s had %d bytes, and has %d", turn, name, old, now)
			}
		}
		data, err := os.ReadFile(filepath.Join(m.root, logs[1]))
		if err != nil || len(data) == 0 || data[0] == 0 {
			t.Errorf("turn %d: the new recollect.log begins with %.20q, %v", turn, data, err)
		}
	}
	if !m.has(logs[0]+".2.gz") || !m.has(logs[1]+".2.gz") {
		t.Error("rotated twice, the oldest logs are not compressed")
	}
}

func (m *machine) write(path, text string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.root, path), []byte(text), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// size is -1 for a file that is not there.
func (m *machine) size(path string) int64 {
	info, err := os.Stat(filepath.Join(m.root, path))
	if err != nil {
		return -1
	}
	return info.Size()
}

func (m *machine) await(what string, ok func() bool) {
	m.t.Helper()
	for range 300 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	m.t.Fatalf("not within 15 s: %s", what)
}
