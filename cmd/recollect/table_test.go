package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/bustest"
	"github.com/pcapper/pcapper/internal/test/clickhousetest"
)

// TestTable: a recollect that puts what a bus carries into ClickHouse is killed, and
// another one goes on; each record is there once.
func TestTable(t *testing.T) {
	t.Parallel()
	sql, err := os.ReadFile("../../docs/clickhouse/tables.sql")
	if err != nil {
		t.Fatal(err)
	}
	table := clickhousetest.Start(t, string(sql))
	server := bustest.Start(t, "")
	agents := newAgents()
	t.Cleanup(agents.close)
	if err := agents.start("A"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "collector.conf")
	if err := os.WriteFile(config, []byte("a:"+agents.byName["A"].address+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	bus := server.URL() + "?replicas=1&partitions=2&size=200000000"
	startRecollect(t, null, "-c", config, "-lines", "-bus", bus)
	writer := []string{"-bus", bus, "-lines", "-sink", table.URL() + "?spool=" + filepath.Join(dir, "spool")}
	first := startRecollect(t, null, writer...)
	sent := 0
	for round := range 20 {
		var lines strings.Builder
		for i := range 500 {
			fmt.Fprintf(&lines, "%d.%06d:10.0.0.1:5001:10.0.0.2:2000:100:0:17\n", 1560390672+round, i)
		}
		if err := agents.send("A", []byte(lines.String()), 0); err != nil {
			t.Fatal(err)
		}
		sent += 500
		time.Sleep(200 * time.Millisecond)
		if round == 12 {
			first.kill()
			startRecollect(t, null, writer...)
		}
	}
	want := fmt.Sprint(sent)
	for _, query := range []string{"SELECT count() FROM records", "SELECT sum(records) FROM minutes"} {
		got := ""
		for end := time.Now().Add(30 * time.Second); got != want && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			got = table.Query("lab", query)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}
