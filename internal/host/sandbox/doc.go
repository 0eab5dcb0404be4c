// Package sandbox removes from the process what it no longer needs after startup:
// root's user ID, capabilities(7), the file system (landlock(7)), gaining privileges by
// exec (PR_SET_NO_NEW_PRIVS), and system calls (seccomp(2)).
//
// What the running kernel does not support is skipped and reported, but is not an
// error: a program that captures with less protection is more useful than none.
package sandbox
