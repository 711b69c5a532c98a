//go:build unix

package main

import "syscall"

// wantedFiles is enough for 20,000 callers and everything else.
const wantedFiles = 65_536

// raiseOpenFiles raises this process's limit of open files, and so that of the
// processes it starts, as far as it may, and returns it.
func raiseOpenFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1_024
	}
	higher := syscall.Rlimit{Cur: wantedFiles, Max: max(limit.Max, wantedFiles)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &higher); err == nil {
		return wantedFiles
	}
	within := syscall.Rlimit{Cur: min(limit.Max, wantedFiles), Max: limit.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &within); err == nil {
		return int(within.Cur) //nolint:gosec // at most wantedFiles
	}
	return int(limit.Cur) //nolint:gosec // a number of files
}
