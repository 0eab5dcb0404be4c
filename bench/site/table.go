package main

import (
	"fmt"
	"time"
)

// row is one measurement.
type row struct {
	agents                  int
	rate, batches, bytes    float64 // a second
	servers, collectors     share
	own                     share // agents and reader
	median, worst           time.Duration
	late                    uint64 // agents' messages
	sent, had, again, given uint64 // records, from the start to the end
}

// settle waits until what was sent has arrived, or nothing comes any more.
func (r *row) settle(a *agents, reader *reader) {
	r.sent = a.sent.Load()
	for range 600 {
		r.had, r.again, r.given = reader.counts()
		quiet := time.Since(time.Unix(0, reader.newest.Load()))
		if r.had+r.given >= r.sent && quiet > time.Second || quiet > 10*time.Second {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

const head = "| agents | records/s | batches/s | MB/s | collectors, processors | servers, processors | largest collector, MiB | largest server, MiB | lag, median | lag, 99 % | sent | had | twice | given up | agents and reader, processors |\n" +
	"|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"

func (r *row) print() {
	fmt.Printf("| %d | %.0f | %.0f | %.1f | %.2f | %.2f | %d | %d | %v | %v | %d | %d | %d | %d | %.2f |\n", r.agents, r.rate, r.batches, r.bytes/1e6,
		r.collectors.processors, r.servers.processors, r.collectors.peak>>20, r.servers.peak>>20,
		r.median.Round(time.Millisecond), r.worst.Round(time.Millisecond), r.sent, r.had, r.again, r.given, r.own.processors)
	if r.late > 0 {
		fmt.Printf("%d messages of agents left more than a second late: this machine was saturated\n", r.late)
	}
}

// printSlope says what more agents take.
func printSlope(rows []row, collectors int) {
	for i := 1; i < len(rows); i++ {
		a, b := rows[i-1], rows[i]
		if n := float64(b.agents - a.agents); n > 0 {
			fmt.Printf("from %d to %d agents: %.1f µs of collectors' and %.1f µs of servers' processor time a second for each more, %.1f KiB of a collector's memory for each more of its own\n",
				a.agents, b.agents, 1e6*(b.collectors.processors-a.collectors.processors)/n, 1e6*(b.servers.processors-a.servers.processors)/n,
				float64(b.collectors.peak-a.collectors.peak)/1024/n*float64(collectors))
		}
	}
}
