package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// child is a process that is measured.
type child struct {
	name string
	cmd  *exec.Cmd
	log  string
}

// start starts a program; what it says goes into a file of dir.
func start(dir, name, program string, args ...string) (*child, error) {
	c := &child{name: name, cmd: exec.Command(program, args...), log: filepath.Join(dir, name+".log")}
	log, err := os.Create(c.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c.cmd.Stderr = log
	// It ends with the thread that starts it, which is the main one.
	c.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return c, c.cmd.Start()
}

// stop ends it, and waits until it has, for ten seconds.
func (c *child) stop() {
	_ = c.cmd.Process.Signal(unix.SIGTERM)
	late := time.AfterFunc(10*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	_ = c.cmd.Wait()
}

// startServers starts three servers of NATS that form a cluster, and gives the
// URL of them all.
func startServers(dir, program string) (list []*child, url string, err error) {
	var clients, routes []string
	for range 3 {
		clients, routes = append(clients, freeAddress()), append(routes, freeAddress())
	}
	for i := range 3 {
		name := fmt.Sprintf("server%d", i+1)
		config := filepath.Join(dir, name+".conf")
		text := fmt.Sprintf(`server_name: %s
listen: %q
jetstream: { store_dir: %q, max_mem: 64M, max_file: 20G }
cluster: { name: site, listen: %q, routes: ["nats://%s"] }
`, name, clients[i], filepath.Join(dir, name), routes[i], strings.Join(routes, `", "nats://`))
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return list, "", err
		}
		c, err := start(dir, name, program, "-c", config)
		if err != nil {
			return list, "", err
		}
		list = append(list, c)
	}
	for _, address := range clients {
		if err := await(address); err != nil {
			return list, "", err
		}
	}
	return list, "nats://" + strings.Join(clients, ","), nil
}

// freeAddress is a port of loopback that nobody listens on, below those that
// connections get.
func freeAddress() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func await(address string) error {
	for range 300 {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("nothing listens on %s", address)
}
