//go:build libpcap

package main

// A test of the build with libpcap tests a program that has it.
var tagFlags = []string{"-tags", "libpcap"}
