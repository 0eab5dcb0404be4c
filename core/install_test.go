package core

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// install runs the installer below root, with the Python of a stand-in.
func install(t *testing.T, root, generation string, args ...string) (string, error) {
	t.Helper()
	fake := filepath.Join(root, "opt/core/venv/bin")
	if err := os.MkdirAll(fake, 0o700); err != nil {
		t.Fatal(err)
	}
	if generation != "" {
		standin, err := filepath.Abs("testdata/standin/" + generation)
		if err != nil {
			t.Fatal(err)
		}
		interpreter := filepath.Join(fake, "python")
		writeFile(t, interpreter, "#!/bin/sh\nPYTHONDONTWRITEBYTECODE=1 PYTHONPATH="+standin+":"+filepath.Dir(standin)+" exec "+python+" \"$@\"\n")
		writeFile(t, filepath.Join(fake, "core-daemon"), "#!"+interpreter+"\nimport core\n")
	}
	cmd := exec.Command("./install", append([]string{"--root", root, "--bin", binDir}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

const coreConf = `# Configuration file for CORE
[core-daemon]
#distributed_address = 127.0.0.1
#custom_services_dir = /home/<user>/.coregui/custom_services
grpcport = 50051

[xen]
x = 1
`

// TestInstall: into each version of CORE goes what it can load, once.
func TestInstall(t *testing.T) {
	const services = "/usr/local/share/pcapper/pcapper_core"
	for generation, want := range map[string]struct {
		conf  string
		files []string
	}{
		"core92": {"[core-daemon]\ncustom_services_dir = " + services + "\n#dist", []string{"pcapper_service.py"}},
		"core90": {
			"[core-daemon]\ncustom_services_dir = " + services + "\ncustom_config_services_dir = " + services + "\n#dist",
			[]string{"pcapper_legacy.py", "pcapper_service.py"},
		},
		"core52": {"[core-daemon]\ncustom_services_dir = " + services + "\n#dist", []string{"pcapper_legacy.py"}},
	} {
		root := t.TempDir()
		conf := filepath.Join(root, "etc/core/core.conf")
		writeFile(t, conf, coreConf)
		for range 2 { // again changes nothing
			out, err := install(t, root, generation)
			if err != nil || !strings.Contains(out, "install-core: restart core-daemon") {
				t.Fatalf("%s: %v\n%s", generation, err, out)
			}
		}
		text, err := os.ReadFile(conf)
		if err != nil || !strings.Contains(string(text), want.conf) || !strings.HasSuffix(string(text), "grpcport = 50051\n\n[xen]\nx = 1\n") {
			t.Errorf("%s: core.conf %v\n%s", generation, err, text)
		}
		if old, err := os.ReadFile(conf + ".before-pcapper"); err != nil || generation != "core90" && string(old) != coreConf {
			t.Errorf("%s: the old core.conf: %v\n%s", generation, err, old)
		}
		entries, _ := filepath.Glob(filepath.Join(root, services, "*"))
		var names []string
		for _, e := range entries {
			names = append(names, filepath.Base(e))
		}
		if strings.Join(names, " ") != strings.Join(want.files, " ") {
			t.Errorf("%s: services %v, want %v", generation, names, want.files)
		}
		for _, program := range []string{"pcapper", "recollect", "pcapper-core"} {
			if info, err := os.Stat(filepath.Join(root, "usr/local/bin", program)); err != nil || info.Mode() != 0o755 {
				t.Errorf("%s: %s: %v", generation, program, err)
			}
		}
	}
}

// TestInstallIntoTheirs: a directory of services that is in use is used; after
// an update of CORE, what it cannot load any more goes away.
func TestInstallIntoTheirs(t *testing.T) {
	root := t.TempDir()
	conf := filepath.Join(root, "opt/core/etc/core.conf")
	writeFile(t, conf, "[core-daemon]\ncustom_services_dir = /srv/services\ncustom_config_services_dir=/srv/services\n")
	writeFile(t, filepath.Join(root, "srv/services/mine.py"), "")
	if out, err := install(t, root, "core61"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := install(t, root, "core92")
	if err != nil || !strings.Contains(out, "removed ") || !strings.Contains(out, "pcapper_legacy.py: this CORE cannot load it") {
		t.Errorf("%v\n%s", err, out)
	}
	entries, _ := filepath.Glob(filepath.Join(root, "srv/services/*"))
	if len(entries) != 2 || filepath.Base(entries[0]) != "mine.py" || filepath.Base(entries[1]) != "pcapper_service.py" {
		t.Errorf("services %v", entries)
	}
}

func TestInstallErrors(t *testing.T) {
	root := t.TempDir()
	if out, err := install(t, root, "core92"); err == nil || !strings.Contains(out, "install-core: no core.conf at ") || !strings.Contains(out, "--conf FILE") {
		t.Errorf("no CORE: %v\n%s", err, out)
	}
	writeFile(t, filepath.Join(root, "etc/core/core.conf"), "nothing\n")
	if out, err := install(t, root, "core92"); err == nil || !strings.Contains(out, "has no section [core-daemon]") {
		t.Errorf("another file: %v\n%s", err, out)
	}
	if out, err := install(t, root, "core92", "--python", "/nonexistent"); err == nil || !strings.Contains(out, "name the right one with --python") {
		t.Errorf("no Python: %v\n%s", err, out)
	}
	if out, err := install(t, root, "core92", "--python", python); err == nil || !strings.Contains(out, "has no CORE") {
		t.Errorf("another Python: %v\n%s", err, out)
	}
	root = t.TempDir()
	writeFile(t, filepath.Join(root, "etc/core/core.conf"), coreConf)
	// A CORE that is there and cannot be imported: what it says, in one line.
	for text, want := range map[string]string{
		"raise TypeError('unsupported operand\\nof an old Python')\n": "cannot import core.services.base: TypeError: unsupported operand of an old Python: repair CORE first",
		"import a_package_of_cores\n":                                 "cannot import core.services.base: ModuleNotFoundError: No module named 'a_package_of_cores': does core-daemon start?",
		"def x(:\n":                                                   "cannot import core.services.base: SyntaxError: ",
		"import sys\nsys.exit(3)\n":                                   "cannot import core.services.base: SystemExit: 3: repair",
		"print('hello')\nimport os\nos._exit(3)\n":                    "cannot run CORE's Python ",
	} {
		root, packages := t.TempDir(), t.TempDir()
		writeFile(t, filepath.Join(root, "etc/core/core.conf"), coreConf)
		broken := filepath.Join(root, "python")
		writeFile(t, filepath.Join(packages, "core/__init__.py"), "")
		writeFile(t, filepath.Join(packages, "core/services/__init__.py"), text)
		writeFile(t, filepath.Join(packages, "core/services/base.py"), "")
		writeFile(t, broken, "#!/bin/sh\nPYTHONDONTWRITEBYTECODE=1 PYTHONPATH="+packages+" exec "+python+" \"$@\"\n")
		out, err := install(t, root, "core92", "--python", broken)
		if strings.HasPrefix(text, "import a_package") != (err == nil) || !strings.Contains(out, want) || strings.Contains(out, "Traceback") || !strings.Contains(out, "--python FILE") {
			t.Errorf("a CORE that has %q: %v\n%s", text, err, out)
		}
	}
	if out, err := install(t, root, "core92", "--bin", root); err == nil || !strings.Contains(out, "pcapper and recollect not found in ") || !strings.Contains(out, "run make build first") {
		t.Errorf("not built: %v\n%s", err, out)
	}
}
