package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"github.com/pcapper/pcapper/internal/collector/web"
	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/fault"
)

// pageOptions control who may see the page.
type pageOptions struct {
	cert, key    string // files, for HTTPS
	users, token string // files
	open         bool
	rules        string // a file: what is a problem, and who is told
	origins      string // of other sites' pages that may read what the server has
}

// access reads the files.
func (o *pageOptions) access() (a web.Access, err error) {
	a.Open = o.open
	if a.Origins, err = web.ParseOrigins(o.origins); err != nil {
		return a, fmt.Errorf("-http-origin: %w", err)
	}
	if (o.cert == "") != (o.key == "") {
		return a, fault.WithHint(errors.New("-http-cert and -http-key belong together"), `"pcapper cert -h" shows how to make both`)
	}
	if o.cert != "" {
		if a.TLS, err = certs.Page(o.cert, o.key); err != nil {
			return a, fmt.Errorf("-http-cert: %w", err)
		}
	}
	if o.users != "" {
		if a.Users, err = web.ReadUsers(o.users); err != nil {
			return a, fmt.Errorf("-http-users: %w", err)
		}
	}
	if o.token != "" {
		if a.Token, err = web.ReadToken(o.token); err != nil {
			return a, fmt.Errorf("-http-token: %w", err)
		}
	}
	return a, nil
}

func (o *pageOptions) readRules() (*web.Rules, error) {
	if o.rules == "" {
		return web.DefaultRules(), nil
	}
	rules, err := web.ReadRules(o.rules)
	if err != nil {
		return nil, fmt.Errorf("-http-rules: %w", err)
	}
	return rules, nil
}

// printUser asks for a password and prints a line for -http-users.
func printUser(name string) error {
	password, err := askPassword()
	if err != nil {
		return fmt.Errorf("no password: %w", err)
	}
	line, err := web.UserLine(name, password)
	if err != nil {
		return err
	}
	_, err = fmt.Println(line)
	return err
}

// askPassword reads a line, without echo if it comes from a terminal.
func askPassword() ([]byte, error) {
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		fmt.Fprint(os.Stderr, "password: ")
		defer fmt.Fprintln(os.Stderr)
		return term.ReadPassword(fd)
	}
	scan := bufio.NewScanner(os.Stdin)
	if !scan.Scan() {
		return nil, errors.Join(scan.Err(), io.ErrUnexpectedEOF)
	}
	return scan.Bytes(), nil
}
