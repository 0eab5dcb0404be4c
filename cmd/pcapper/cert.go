package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pcapper/pcapper/internal/agent"
	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/host/option"
)

const certUsage = `Usage: pcapper cert [-dir directory] [-name name] [-days days] [-force] host...
       pcapper cert -collector [-dir directory] [-name name] [-days days] [-force]

Makes certificates for feeds by TLS. The first form makes one for an agent that
collectors dial by these names or IP addresses; the second makes one for a
collector. The authority that signs them, ca.pem, is made with the first
certificate, and a collector's along with it. Keys stay where they are made:
copy NAME.pem, NAME-key.pem and ca.pem to the host, and keep ca-key.pem.

  -collector       for a collector
  -dir directory   where the files are (default: this one)
  -name name       of the files and in the certificate (default: agent or collector)
  -days days       how long it is valid (default 365)
  -force           replace a certificate that is there

Example: an agent at 10.0.0.3, and a collector
  pcapper cert 10.0.0.3
  pcapper -p 0 -tls-cert agent.pem -tls-key agent-key.pem -tls-client-ca ca.pem
  echo 'a:tls://10.0.0.3:7443' >collector.conf
  recollect -tls-cert collector.pem -tls-key collector-key.pem -tls-ca ca.pem
`

// makeCerts implements "pcapper cert".
func makeCerts(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("cert", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var r certs.Request
	flags.StringVar(&r.Dir, "dir", ".", "")
	flags.StringVar(&r.Name, "name", "", "")
	flags.BoolVar(&r.Client, "collector", false, "")
	flags.BoolVar(&r.Force, "force", false, "")
	days := flags.Int("days", 365, "")
	err := option.Explain(flags, flags.Parse(args))
	r.Hosts, r.Valid = flags.Args(), time.Duration(*days)*24*time.Hour
	switch {
	case errors.Is(err, flag.ErrHelp):
		io.WriteString(stdout, certUsage)
		return 0
	case err != nil:
	case *days < 1 || *days > 36500:
		err = fmt.Errorf("-days %d: want a number from 1 to 36500", *days)
	case !r.Client && len(r.Hosts) == 0:
		err = errors.New("by which names or addresses is the agent dialled?")
	case r.Name == "ca" || strings.ContainsRune(r.Name, filepath.Separator):
		err = fmt.Errorf("-name %q: want a file's name, and not ca", r.Name)
	}
	if err != nil {
		return report(stderr, fault.WithCode(agent.ExitUsage, fault.WithHint(err, "pcapper cert -h explains it")))
	}
	if err := issue(r, stdout); err != nil {
		return report(stderr, err)
	}
	return 0
}

// issue creates the certificate that r describes, and a collector's certificate if the
// authority is new and there is none yet.
func issue(r certs.Request, stdout io.Writer) error {
	_, err := os.Stat(filepath.Join(r.Dir, "ca.pem"))
	first := errors.Is(err, fs.ErrNotExist)
	if r.Name == "" {
		r.Name = "agent"
		if r.Client {
			r.Name = "collector"
		}
	}
	requests := []certs.Request{r}
	if first && !r.Client {
		requests = append(requests, certs.Request{Dir: r.Dir, Name: "collector", Client: true, Valid: r.Valid})
	}
	for _, r := range requests {
		wrote, err := certs.Make(r, time.Now())
		for _, name := range wrote {
			fmt.Fprintln(stdout, name)
		}
		if errors.Is(err, fs.ErrExist) {
			return fault.WithHint(err, "-name takes another name, -force replaces it")
		}
		if err != nil {
			return err
		}
	}
	return nil
}
