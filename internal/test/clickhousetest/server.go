// Package clickhousetest runs a real ClickHouse server for tests.
package clickhousetest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Server is a real one, with files and a port of its own.
type Server struct {
	Port int
	t    testing.TB
	dir  string
	cmd  *exec.Cmd
}

const serverConfig = `<yandex>
<logger><level>warning</level><console>1</console></logger>
<http_port>%d</http_port><listen_host>127.0.0.1</listen_host>
<path>%[2]s/data/</path><tmp_path>%[2]s/tmp/</tmp_path><users_config>users.xml</users_config>
<default_profile>default</default_profile><default_database>default</default_database>
<mark_cache_size>67108864</mark_cache_size><timezone>UTC</timezone>
</yandex>
`

// Password is ann's.
const Password = "sesame'#"

const serverUsers = `<yandex>
<profiles><default><max_memory_usage>1000000000</max_memory_usage></default></profiles>
<users><ann><password>sesame'#</password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></ann></users>
<quotas><default/></quotas>
</yandex>
`

// Start starts a server with a database lab, and in it what tables, SQL, makes. Its user is ann,
// the password Password.
func Start(t testing.TB, tables string) *Server {
	t.Helper()
	if _, err := exec.LookPath("clickhouse-server"); err != nil {
		t.Skip("this release of Debian has no package clickhouse-server") // scripts/test knows this reason
	}
	s := &Server{t: t, dir: t.TempDir(), Port: freePort(t)}
	s.file("config.xml", fmt.Sprintf(serverConfig, s.Port, s.dir))
	s.file("users.xml", serverUsers)
	s.Restart()
	t.Cleanup(s.Kill)
	s.Query("", "CREATE DATABASE lab")
	for statement := range strings.SplitSeq(tables, ";\n") {
		if strings.Contains(statement, "CREATE") {
			s.Query("lab", statement)
		}
	}
	return s
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *Server) file(name, text string) {
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// Restart starts it again, with the files that it has.
func (s *Server) Restart() {
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command("clickhouse-server", "--config-file="+filepath.Join(s.dir, "config.xml"))
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("%v; Debian's packages clickhouse-server and libpcre3 have it", err)
	}
	for range 300 {
		if r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", s.Port)); err == nil {
			r.Body.Close()
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	text, _ := os.ReadFile(log.Name())
	s.t.Fatalf("no answer in 30 s: %s", text)
}

// URL is the server's, as a sink takes it.
func (s *Server) URL() string {
	return fmt.Sprintf("clickhouse+http://ann:%s@127.0.0.1:%d/lab", url.QueryEscape(Password), s.Port)
}

// Kill kills it.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Query is what the server answers, lines without the last end.
func (s *Server) Query(database, sql string) string {
	s.t.Helper()
	request, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/?database=%s", s.Port, database), strings.NewReader(sql))
	if err != nil {
		s.t.Fatal(err)
	}
	request.SetBasicAuth("ann", Password)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %s %s %v", sql, response.Status, body, err)
	}
	return strings.TrimSuffix(string(body), "\n")
}
