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

func write(dir, program string) error {
	help, err := exec.Command(program, "-h").Output()
	if err != nil {
		return fmt.Errorf("%s -h: %w", program, err)
	}
	options := parse(string(help))
	if len(options) == 0 {
		return fmt.Errorf("%s -h lists no options", program)
	}
	name := filepath.Base(program)
	commands := ""
	if strings.Contains(string(help), name+" cert") {
		commands = "cert"
	}
	for file, text := range map[string]string{
		name + ".bash": bash(name, commands, options), "_" + name: zsh(name, options), name + ".fish": fish(name, commands, options),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
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

func bash(name, commands string, options []option) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# bash completion for %[1]s(1)\n_%[1]s() {\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n", name)
	b.WriteString("\tCOMPREPLY=()\n\tcase $prev in\n")
	for _, o := range options {
		w, known := values[o.name]
		switch {
		case !o.value:
			continue
		case !known:
			fmt.Fprintf(&b, "\t-%s) ;;\n", o.name)
		case w == files:
			fmt.Fprintf(&b, "\t-%s)\n\t\tcompopt -o filenames 2>/dev/null\n\t\tCOMPREPLY=($(compgen -f -- \"$cur\"))\n\t\t;;\n", o.name)
		default:
			fmt.Fprintf(&b, "\t-%s) COMPREPLY=($(compgen -W \"%s\" -- \"$cur\")) ;;\n", o.name, w.bash)
		}
	}
	b.WriteString("\t*)\n")
	if commands != "" {
		fmt.Fprintf(&b, "\t\t[ \"$COMP_CWORD\" != 1 ] || COMPREPLY=($(compgen -W \"%s\" -- \"$cur\"))\n", commands)
	}
	b.WriteString("\t\tCOMPREPLY+=($(compgen -W \"")
	for i, o := range options {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString("-" + o.name)
	}
	fmt.Fprintf(&b, "\" -- \"$cur\"))\n\t\t;;\n\tesac\n}\ncomplete -F _%[1]s %[1]s\n", name)
	return b.String()
}

func zsh(name string, options []option) string {
	var b strings.Builder
	fmt.Fprintf(&b, "#compdef %[1]s\n# zsh completion for %[1]s(1)\n_arguments", name)
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
	return b.String() + "\n"
}

func fish(name, commands string, options []option) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# fish completion for %s(1)\n", name)
	if commands != "" {
		fmt.Fprintf(&b, "complete -c %s -n __fish_use_subcommand -a '%s'\n", name, commands)
	}
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
		fmt.Fprintf(&b, "complete -c %s -o %s %s -d '%s'\n", name, o.name, how, strings.ReplaceAll(o.text, "'", ""))
	}
	return b.String()
}
