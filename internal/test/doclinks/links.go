// Package doclinks finds links of Markdown files that lead nowhere.
package doclinks

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fence   = regexp.MustCompile("(?ms)^```.*?^```")
	heading = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
	unfit   = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// Broken returns the links, as "file: link", of the Markdown files below dir
// whose file or heading is not there. Links to other sites are not followed.
func Broken(dir string) (list []string, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() && e.Name() == "node_modules" {
			if err == nil {
				err = filepath.SkipDir
			}
			return err
		}
		if filepath.Ext(path) != ".md" || e.IsDir() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllSubmatch(fence.ReplaceAll(text, nil), -1) {
			if to := string(m[1]); !strings.Contains(to, "://") && !leads(path, to) {
				name, _ := filepath.Rel(dir, path)
				list = append(list, name+": "+to)
			}
		}
		return nil
	})
	return list, err
}

// leads reports whether a link in the file from leads somewhere.
func leads(from, to string) bool {
	file, anchor, _ := strings.Cut(to, "#")
	target := from
	if file != "" {
		target = filepath.Join(filepath.Dir(from), file)
	}
	if _, err := os.Stat(target); err != nil {
		return false
	}
	if anchor == "" {
		return true
	}
	text, err := os.ReadFile(target)
	if err != nil {
		return false
	}
	for _, m := range heading.FindAllSubmatch(fence.ReplaceAll(text, nil), -1) {
		// As GitHub makes anchors of headings.
		name := unfit.ReplaceAllString(strings.ToLower(string(m[1])), "")
		if strings.ReplaceAll(name, " ", "-") == anchor {
			return true
		}
	}
	return false
}
