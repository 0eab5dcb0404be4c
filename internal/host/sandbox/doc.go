// Package sandbox takes from the process what it no longer needs once it is
// set up: the user ID of root, capabilities(7), the file system (landlock(7)),
// new privileges by exec (PR_SET_NO_NEW_PRIVS) and system calls (seccomp(2)).
//
// What the running kernel cannot do is left out and said, not an error: a
// program that captures with less protection is of more use than none.
package sandbox
