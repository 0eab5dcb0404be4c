package bustest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Nodes is how many servers a cluster has.
const Nodes = 3

// Servers is a cluster of servers on loopback.
type Servers struct {
	dir, program string
	ports        [Nodes]int
	routes       [Nodes]int
	running      [Nodes]*exec.Cmd
	links        map[[2]int]*Link // from a server to another one's routes; nil: none
}

// StartServers starts them, with their files in dir.
func StartServers(ctx context.Context, dir string) (*Servers, error) {
	return startServers(ctx, dir, false)
}

// StartLinkedServers starts servers that [Servers.Partition] can cut off.
func StartLinkedServers(ctx context.Context, dir string) (*Servers, error) {
	return startServers(ctx, dir, true)
}

func startServers(ctx context.Context, dir string, linked bool) (*Servers, error) {
	program, err := Program()
	if err != nil {
		return nil, err
	}
	s := &Servers{dir: dir, program: program}
	if err := freePorts(s.ports[:], s.routes[:]); err != nil {
		return nil, err
	}
	if linked {
		if err := s.link(); err != nil {
			s.Close()
			return nil, err
		}
	}
	for i := range Nodes {
		if err := s.Start(i); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, s.wait(ctx)
}

// freePorts finds ports that nobody listens at.
func freePorts(lists ...[]int) error {
	for _, list := range lists {
		for i := range list {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				return err
			}
			defer l.Close()
			list[i] = l.Addr().(*net.TCPAddr).Port
		}
	}
	return nil
}

// URL names all servers.
func (s *Servers) URL() string {
	var hosts []string
	for _, p := range s.ports {
		hosts = append(hosts, fmt.Sprintf("127.0.0.1:%d", p))
	}
	return "nats://" + strings.Join(hosts, ",")
}

// Start starts server i, with what it had on disk.
func (s *Servers) Start(i int) error {
	var routes []string
	for j, p := range s.routes {
		route := fmt.Sprintf("127.0.0.1:%d", p)
		if l := s.links[[2]int{i, j}]; l != nil {
			route = l.Addr()
		}
		if i != j {
			routes = append(routes, "nats://"+route)
		}
	}
	text := fmt.Sprintf(`server_name: n%d
listen: 127.0.0.1:%d
jetstream { store_dir: %q, max_mem: 64MB, max_file: 20GB }
cluster { name: test, listen: 127.0.0.1:%d, no_advertise: %v, routes: [%s] }
`, i, s.ports[i], filepath.Join(s.dir, fmt.Sprint("n", i)), s.routes[i], s.links != nil, strings.Join(routes, ", "))
	file := filepath.Join(s.dir, fmt.Sprintf("n%d.conf", i))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	cmd := exec.Command(s.program, "-c", file, "-l", filepath.Join(s.dir, fmt.Sprintf("n%d.log", i)))
	cmd.Env = append(os.Environ(), "GOMEMLIMIT=256MiB")
	if err := cmd.Start(); err != nil {
		return err
	}
	s.running[i] = cmd
	return nil
}

// link puts a link in the way of each route.
func (s *Servers) link() (err error) {
	s.links = map[[2]int]*Link{}
	for i := range Nodes {
		for j := range Nodes {
			if i == j {
				continue
			}
			if s.links[[2]int{i, j}], err = NewLink(fmt.Sprintf("127.0.0.1:%d", s.routes[j])); err != nil {
				return err
			}
		}
	}
	return nil
}

// Partition cuts server i off from the others, or ends that. Clients of each server
// keep their connections.
func (s *Servers) Partition(i int, cut bool) {
	for pair, l := range s.links {
		if pair[0] == i || pair[1] == i {
			l.Cut(cut)
		}
	}
}

// Addr is where server i's clients connect.
func (s *Servers) Addr(i int) string { return fmt.Sprintf("127.0.0.1:%d", s.ports[i]) }

// Stop ends server i as an administrator would (SIGTERM).
func (s *Servers) Stop(i int) {
	if cmd := s.running[i]; cmd != nil {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		s.running[i] = nil
	}
}

// Pause has server i stand still (SIGSTOP), or go on.
func (s *Servers) Pause(i int, pause bool) {
	signal := syscall.SIGCONT
	if pause {
		signal = syscall.SIGSTOP
	}
	_ = s.running[i].Process.Signal(signal)
}

// Kill kills server i (SIGKILL).
func (s *Servers) Kill(i int) {
	if cmd := s.running[i]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		s.running[i] = nil
	}
}

// Running reports whether server i was started and not killed.
func (s *Servers) Running(i int) bool { return s.running[i] != nil }

// Close kills all.
func (s *Servers) Close() {
	for i := range Nodes {
		s.Kill(i)
	}
	for _, l := range s.links {
		if l != nil {
			l.Close()
		}
	}
}

// wait waits until streams can be made.
func (s *Servers) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	return s.ask(ctx, func(js jetstream.JetStream) error {
		for {
			attempt, cancel := context.WithTimeout(ctx, time.Second)
			_, err := js.AccountInfo(attempt)
			cancel()
			if err == nil || ctx.Err() != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

func (s *Servers) ask(ctx context.Context, f func(js jetstream.JetStream) error) error {
	nc, err := nats.Connect(s.URL(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return f(js)
}

// Leader is the server that leads a stream.
func (s *Servers) Leader(ctx context.Context, stream string) (leader int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err = s.ask(ctx, func(js jetstream.JetStream) error {
		for {
			st, err := js.Stream(ctx, stream)
			if err == nil {
				if c := st.CachedInfo().Cluster; c != nil && c.Leader != "" {
					_, err := fmt.Sscanf(c.Leader, "n%d", &leader)
					return err
				}
				err = errors.New("it has no leader")
			}
			if ctx.Err() != nil {
				return fmt.Errorf("stream %s: %w", stream, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	return leader, err
}

// Whole waits until each server has all that the others have, for two minutes.
func (s *Servers) Whole(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return s.ask(ctx, func(js jetstream.JetStream) error {
		for {
			lacks, err := lacking(ctx, js)
			if err == nil && lacks == "" {
				return nil
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%s: %w", lacks, errors.Join(err, ctx.Err()))
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// lacking names a server that is behind, and its stream; "" if none is.
func lacking(ctx context.Context, js jetstream.JetStream) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	streams := js.ListStreams(ctx)
	n := 0
	for info := range streams.Info() {
		n++
		c := info.Cluster
		if c == nil || c.Leader == "" {
			return info.Config.Name + " has no leader", nil
		}
		for _, r := range c.Replicas {
			if !r.Current || r.Offline {
				return fmt.Sprintf("%s of %s is not current", r.Name, info.Config.Name), nil
			}
		}
	}
	if n == 0 && streams.Err() == nil {
		return "there are no streams", nil
	}
	return "", streams.Err()
}
