package feed

import (
	"os"
	"os/exec"
	"testing"
)

// rerun runs the calling test alone in a process of its own, for tests that
// change what the whole process may do.
func rerun(t *testing.T) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "FEED_CHILD=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
