//go:build race

package main

// A test with the race detector tests a program with it.
var buildFlags = []string{"-race"}
