//go:build race

package main

// A test with the race detector tests a program with it.
var raceFlags = []string{"-race"}
