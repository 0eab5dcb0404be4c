package web

import (
	"bufio"
	"bytes"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pcapper/pcapper/internal/host/option"
)

// Rules say what is a problem, and who is told when one begins and ends.
type Rules struct {
	LossShare   float64 // of a hop's packets in the last minute, from 0 to 1
	LossPackets uint64  // that were sent on it, at least
	// SilentPackets were sent meanwhile to a member of a group that received none.
	SilentPackets uint64
	// ClockAhead and ClockBehind are how far an agent's clock may be off. Behind includes the time that
	// packets take to the collector.
	ClockAhead, ClockBehind time.Duration
	Agent                   time.Duration // that an agent may be away
	Drops                   time.Duration // that records which the monitoring lost stay a problem
	off                     map[string]bool
	webhooks                []*webhook
}

// DefaultRules are those without a file.
func DefaultRules() *Rules {
	return &Rules{
		LossShare: 0.01, LossPackets: 20, SilentPackets: 20,
		ClockAhead: 500 * time.Millisecond, ClockBehind: 1500 * time.Millisecond, Drops: 5 * time.Minute,
	}
}

// Kinds of problems.
var kinds = []string{"loss", "silent", "agent", "clock", "drops", "failing"}

// Off reports whether problems of a kind are not looked for.
func (r *Rules) Off(kind string) bool { return r.off[kind] }

// ReadRules reads lines KEY = VALUE, each once but webhook. Empty lines and comments, from # on at the
// beginning of a word, are left out. What is not in the file is as in DefaultRules.
func ReadRules(path string) (*Rules, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := DefaultRules()
	r.off = map[string]bool{}
	seen := map[string]bool{}
	scan := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; scan.Scan(); n++ {
		line, _, _ := strings.Cut(" "+strings.ReplaceAll(scan.Text(), "\t", " "), " #")
		if strings.TrimSpace(line) == "" {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case !ok:
			err = fmt.Errorf("want KEY = VALUE, as loss = 5%%")
		case seen[key] && key != "webhook":
			err = fmt.Errorf("%s is there twice", key)
		default:
			err = r.set(key, value)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		seen[key] = true
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

var ruleKeys = append([]string{"loss-packets", "silent-packets", "clock-ahead", "clock-behind", "agent-away", "drops-shown", "webhook"}, kinds...)

func (r *Rules) set(key, value string) (err error) {
	switch key {
	case "loss":
		if value != "off" && value != "on" {
			r.LossShare, err = parseShare(value)
			break
		}
		r.off[key] = value == "off"
	case "silent", "agent", "clock", "drops", "failing":
		if value != "off" && value != "on" {
			err = fmt.Errorf("want on or off")
		}
		r.off[key] = value == "off"
	case "loss-packets":
		r.LossPackets, err = parseCount(value)
	case "silent-packets":
		r.SilentPackets, err = parseCount(value)
	case "clock-ahead":
		r.ClockAhead, err = parsePositive(value)
	case "clock-behind":
		r.ClockBehind, err = parsePositive(value)
	case "agent-away":
		r.Agent, err = parsePositive(value)
	case "drops-shown":
		r.Drops, err = parsePositive(value)
	case "webhook":
		var hook *webhook
		if hook, err = parseWebhook(value); err != nil {
			return fmt.Errorf("webhook: %w", err)
		}
		r.webhooks = append(r.webhooks, hook)
	default:
		if near := option.NearestWord(key, ruleKeys); near != "" {
			return fmt.Errorf("unknown rule %q: did you mean %s?", key, near)
		}
		return fmt.Errorf("unknown rule %q: want %s", key, option.OrList(ruleKeys))
	}
	if err != nil {
		return fmt.Errorf("%s = %q: %w", key, value, err)
	}
	return nil
}

func parseShare(text string) (float64, error) {
	number, ok := strings.CutSuffix(text, "%")
	share, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if !ok || err != nil || !(share > 0 && share <= 100) {
		return 0, fmt.Errorf("want a share such as 5%% or 0.1%%, on or off")
	}
	return share / 100, nil
}

func parseCount(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("want a number of packets from 1 on")
	}
	return n, nil
}

func parsePositive(text string) (time.Duration, error) {
	d, err := option.ParseDuration(text)
	if err == nil && d < 0 {
		err = fmt.Errorf("want a time such as 500ms, 30s, or 5m")
	}
	return d, err
}

// parseWebhook reads URL [token-file=FILE].
func parseWebhook(text string) (*webhook, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return nil, fmt.Errorf("want https://HOST/PATH")
	}
	u, err := url.Parse(words[0])
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%s: want https://HOST/PATH", option.Redact(words[0]))
	}
	token := ""
	for _, word := range words[1:] {
		file, ok := strings.CutPrefix(word, "token-file=")
		if !ok {
			return nil, fmt.Errorf("%q: want token-file=FILE, or nothing, after the URL", word)
		}
		if token, err = option.ReadSecret(file); err != nil {
			return nil, err
		}
	}
	return newWebhook(u, token)
}
