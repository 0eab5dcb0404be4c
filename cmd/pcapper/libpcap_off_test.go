//go:build !libpcap

package main

var tagFlags []string
