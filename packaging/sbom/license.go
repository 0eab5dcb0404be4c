package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A license is what a package's files say of its terms.
type license struct {
	id        string // an SPDX expression
	copyright string // the lines that name the owners
	text      string // of all the files
}

// rules tell licenses by sentences that all their copies have. A file may have
// several: one of each part of a module.
var rules = []struct {
	id  string
	has string // in lower case, words separated by single spaces
}{
	{"Apache-2.0", "apache license version 2.0, january 2004"},
	{"MIT", "permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated"},
	{"BSD-3-Clause", "redistribution and use in source and binary forms"},
	{"BSD-2-Clause", "redistribution and use in source and binary forms"},
	{"ISC", "permission to use, copy, modify, and/or distribute this software for any purpose"},
	{"ISC", "permission to use, copy, modify, and distribute this software for any purpose"},
	{"MPL-2.0", "mozilla public license version 2.0"},
	{"OFL-1.1", "sil open font license version 1.1"},
}

// endorsement is the third clause of the BSD license, in all its wordings.
const endorsement = "used to endorse or promote products derived from this software"

// readLicense reads the license files in dir.
func readLicense(dir string) (license, error) {
	if dir == "" {
		return license{}, fmt.Errorf("its files are not in the module cache: go mod download")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return license{}, err
	}
	var l license
	var ids, owners []string
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if e.IsDir() || !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") && !strings.HasPrefix(name, "NOTICE") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return license{}, err
		}
		l.text += string(data) + "\n"
		ids = append(ids, identify(string(data))...)
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "Copyright ") && strings.ContainsAny(line, "0123456789") {
				owners = append(owners, line)
			}
		}
	}
	slices.Sort(ids)
	if ids = slices.Compact(ids); len(ids) == 0 {
		return license{}, fmt.Errorf("no license that is known in %s", dir)
	}
	l.id = strings.Join(ids, " AND ")
	if l.copyright = strings.Join(owners, "\n"); l.copyright == "" {
		l.copyright = "NOASSERTION"
	}
	return l, nil
}

// identify returns the SPDX identifiers of the licenses in a text.
func identify(text string) (ids []string) {
	words := strings.Join(strings.Fields(strings.ToLower(text)), " ")
	for _, r := range rules {
		found := strings.Contains(words, r.has)
		switch r.id {
		case "BSD-3-Clause":
			found = found && strings.Contains(words, endorsement)
		case "BSD-2-Clause":
			found = found && !strings.Contains(words, endorsement)
		}
		if found {
			ids = append(ids, r.id)
		}
	}
	return ids
}
