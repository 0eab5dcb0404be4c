package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/test/clickhousetest"
)

// TestClickHouse: what agents' logs say is in the table, and the password nowhere.
func TestClickHouse(t *testing.T) {
	t.Parallel()
	sql, err := os.ReadFile("../../docs/clickhouse/tables.sql")
	if err != nil {
		t.Fatal(err)
	}
	server := clickhousetest.Start(t, string(sql))
	dir := t.TempDir()
	var log bytes.Buffer
	total := 0
	for i := range 70_000 {
		fmt.Fprintf(&log, "%d.%06d:10.0.0.1:5001:10.0.0.2:2000:%d:1001:17\n", 1560390672+i/10_000, i%10_000, 28+i%1000)
		total += 28 + i%1000
	}
	for _, name := range []string{"n1.log", "n2.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), log.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(filepath.Join(binDir, "recollect"), "-lines", "-speed", "max", "-sink", server.URL(), "-replay", dir)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	if !strings.Contains(stderr.String(), "recollect: 140000 rows in ClickHouse, 0 dropped\n") || strings.Contains(stderr.String(), "sesame") {
		t.Errorf("stderr: %s", &stderr)
	}
	for _, query := range []string{
		"SELECT agent, count(), sum(bytes), min(mgen_flow) FROM records GROUP BY agent ORDER BY agent",
		"SELECT agent, sum(records), sum(bytes), min(mgen_flow) FROM minutes GROUP BY agent ORDER BY agent",
	} {
		if got, want := server.Query("lab", query), fmt.Sprintf("n1\t70000\t%d\t1001\nn2\t70000\t%[1]d\t1001", total); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", query, got, want)
		}
	}
}
