// Completions writes what bash, zsh and fish need to complete the options of
// pcapper and recollect. They are made from the programs' own help, so they
// cannot differ from it.
//
//	completions DIRECTORY PROGRAM...
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// option is one of a program's.
type option struct {
	name  string // without the dash
	value bool   // it takes one
	text  string
}

// Where values come from, by option; others are free.
var (
	interfaces = words{bash: "$(command ls /sys/class/net)", zsh: "_net_interfaces", fish: "(ls /sys/class/net)"}
	users      = words{bash: "$(compgen -u)", zsh: "_users", fish: "(__fish_complete_users)"}
	files      = words{}
	values     = map[string]words{
		"i": interfaces, "r": interfaces, "s": interfaces, "user": users,
		"m": fixed("src dst spoof none"), "engine": fixed("auto ebpf ring libpcap"), "fragments": fixed("every first"),
		"f": files, "read": files, "c": files, "names": files, "replay": files, "spool": files,
		"format": fixed("csv json parquet"), "direction": fixed("in out"), "level": fixed("packets flows top"),
		"o": files, "store": files, "dir": files,
		"tls-cert": files, "tls-key": files, "tls-client-ca": files, "tls-ca": files,
	}
)

// words are the values of an option, for each shell; none are files.
type words struct{ bash, zsh, fish string }

func fixed(list string) words { return words{list, "(" + list + ")", list} }

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: completions DIRECTORY PROGRAM...")
		os.Exit(2)
	}
	for _, program := range os.Args[2:] {
		if err := write(os.Args[1], program); err != nil {
			fmt.Fprintln(os.Stderr, "completions:", err)
			os.Exit(1)
		}
	}
}

func write(dir, path string) error {
	help, err := exec.Command(path, "-h").Output()
	if err != nil {
		return fmt.Errorf("%s -h: %w", path, err)
	}
	p := program{name: filepath.Base(path), options: parse(string(help))}
	if len(p.options) == 0 {
		return fmt.Errorf("%s -h lists no options", path)
	}
	for _, c := range []string{"cert", "demo", "query", "replay", "view", "watch"} {
		if !strings.Contains(string(help), p.name+" "+c) {
			continue
		}
		help, err := exec.Command(path, c, "-h").Output()
		if err != nil {
			return fmt.Errorf("%s %s -h: %w", path, c, err)
		}
		p.commands = append(p.commands, command{c, parse(string(help))})
	}
	for file, text := range map[string]string{p.name + ".bash": p.bash(), "_" + p.name: p.zsh(), p.name + ".fish": p.fish()} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// program is what there is to complete.
type program struct {
	name     string
	options  []option
	commands []command
}

// command is a first argument that has options of its own.
type command struct {
	name    string
	options []option
}

// takesFiles reports whether the command's other arguments are files.
func (c *command) takesFiles() bool { return c.name == "replay" }

// names are those of the commands.
func (p *program) names() string {
	var list []string
	for _, c := range p.commands {
		list = append(list, c.name)
	}
	return strings.Join(list, " ")
}

// all are the options of the program and its commands, each once.
func (p *program) all() []option {
	list, seen := p.options, make(map[string]bool)
	for _, c := range p.commands {
		list = append(list[:len(list):len(list)], c.options...)
	}
	return slices.DeleteFunc(slices.Clone(list), func(o option) bool {
		again := seen[o.name]
		seen[o.name] = true
		return again
	})
}

var (
	// An option's line, one or more options with a value or none each. The
	// explanation is behind two blanks, in the next line or, where an option is
	// longer than the column, behind one.
	line   = regexp.MustCompile(`^  (-.*)`)
	single = regexp.MustCompile(`^-([A-Za-z][\w-]*)(?: ([A-Za-z|:]+(?:,[A-Za-z|:]+)*(?:\.\.\.)?))?(, |$)`)
	narrow = regexp.MustCompile(`^(-[\w-]+ (?:[a-z]+|[A-Z:]+(?:,[A-Z]+)*)) (.*)`)
)

// parse finds the options in a help text, up to the first empty line behind
// them.
func parse(help string) (options []option) {
	lines := strings.Split(help, "\n")
	for i, text := range lines {
		if text == "" && len(options) > 0 {
			break
		}
		m := line.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		head, about, found := strings.Cut(m[1], "  ")
		if !found {
			if n := narrow.FindStringSubmatch(m[1]); n != nil && (len(n[1]) > 16 || n[1] != strings.ToLower(n[1])) {
				head, about = n[1], n[2]
			} else if i+1 < len(lines) {
				about = lines[i+1]
			}
		}
		about = strings.TrimSpace(about)
		for head != "" {
			o := single.FindStringSubmatch(head)
			if o == nil {
				break
			}
			options = append(options, option{o[1], o[2] != "", about})
			head = head[len(o[0]):]
		}
	}
	return options
}

func (p *program) bash() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# bash completion for %[1]s(1)\n_%[1]s() {\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n", p.name)
	b.WriteString("\tCOMPREPLY=()\n\tcase $prev in\n")
	for _, o := range p.all() {
		w, known := values[o.name]
		switch {
		case !o.value:
			continue
		case !known:
			fmt.Fprintf(&b, "\t-%s) return ;;\n", o.name)
		case w == files:
			fmt.Fprintf(&b, "\t-%s)\n\t\tcompopt -o filenames 2>/dev/null\n\t\tCOMPREPLY=($(compgen -f -- \"$cur\"))\n\t\treturn\n\t\t;;\n", o.name)
		default:
			fmt.Fprintf(&b, "\t-%s)\n\t\tCOMPREPLY=($(compgen -W \"%s\" -- \"$cur\"))\n\t\treturn\n\t\t;;\n", o.name, w.bash)
		}
	}
	b.WriteString("\tesac\n")
	if p.commands != nil {
		fmt.Fprintf(&b, "\t[ \"$COMP_CWORD\" != 1 ] || COMPREPLY=($(compgen -W \"%s\" -- \"$cur\"))\n\tcase ${COMP_WORDS[1]} in\n", p.names())
		for _, c := range p.commands {
			fmt.Fprintf(&b, "\t%s)\n\t\t%s\n", c.name, bashFlags(c.options))
			if c.takesFiles() {
				b.WriteString("\t\tcompopt -o filenames 2>/dev/null\n\t\tCOMPREPLY+=($(compgen -f -- \"$cur\"))\n")
			}
			b.WriteString("\t\treturn\n\t\t;;\n")
		}
		b.WriteString("\tesac\n")
	}
	fmt.Fprintf(&b, "\t%[2]s\n}\ncomplete -F _%[1]s %[1]s\n", p.name, bashFlags(p.options))
	return b.String()
}

// bashFlags adds options to what is offered.
func bashFlags(options []option) string {
	var list []string
	for _, o := range options {
		list = append(list, "-"+o.name)
	}
	return fmt.Sprintf(`COMPREPLY+=($(compgen -W "%s" -- "$cur"))`, strings.Join(list, " "))
}

func (p *program) zsh() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#compdef %[1]s\n# zsh completion for %[1]s(1)\n", p.name)
	first := ""
	if p.commands != nil {
		b.WriteString("case $words[2] in\n")
		for _, c := range p.commands {
			rest := ""
			if c.takesFiles() {
				rest = " \\\n\t'*:file:_files'"
			}
			fmt.Fprintf(&b, "%s)\n\tshift words\n\t(( CURRENT-- ))\n\t_arguments%s%s\n\treturn\n\t;;\n", c.name, rest, zshFlags(c.options))
		}
		b.WriteString("esac\n")
		first = fmt.Sprintf(" \\\n\t'1:command:(%s)'", p.names())
	}
	return b.String() + "_arguments" + first + zshFlags(p.options) + "\n"
}

// zshFlags are options as _arguments takes them.
func zshFlags(options []option) string {
	var b strings.Builder
	plain := strings.NewReplacer("'", "", "[", "(", "]", ")", ":", ",")
	for _, o := range options {
		fmt.Fprintf(&b, " \\\n\t'-%s[%s]", o.name, plain.Replace(o.text))
		if w, known := values[o.name]; o.value {
			action := " "
			if known {
				action = w.zsh
			}
			if known && w == files {
				action = "_files"
			}
			b.WriteString(":value:" + action)
		}
		b.WriteByte('\'')
	}
	return b.String()
}

func (p *program) fish() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# fish completion for %s(1)\n", p.name)
	when := ""
	if p.commands != nil {
		fmt.Fprintf(&b, "complete -c %s -n __fish_use_subcommand -a '%s'\n", p.name, p.names())
		when = fmt.Sprintf(" -n 'not __fish_seen_subcommand_from %s'", p.names())
	}
	p.fishFlags(&b, when, p.options)
	for _, c := range p.commands {
		p.fishFlags(&b, fmt.Sprintf(" -n '__fish_seen_subcommand_from %s'", c.name), c.options)
	}
	return b.String()
}

// fishFlags writes options, which are offered when a condition is met.
func (p *program) fishFlags(b *strings.Builder, when string, options []option) {
	for _, o := range options {
		how := "-f"
		if w, known := values[o.name]; o.value {
			switch {
			case !known:
				how = "-x"
			case w == files:
				how = "-rF"
			default:
				how = fmt.Sprintf("-xa '%s'", w.fish)
			}
		}
		fmt.Fprintf(b, "complete -c %s%s -o %s %s -d '%s'\n", p.name, when, o.name, how, strings.ReplaceAll(o.text, "'", ""))
	}
}
