//go:build crashpoints

package main

import "syscall"

// crashPoint kills this process, without a chance to clean up, at the step that
// FACILITATOR_CRASH_AT names. The crash suite builds with this; nothing else does.
func crashPoint(c console) func(string) {
	at := lookup(c, "FACILITATOR_CRASH_AT")
	return func(point string) {
		if point == at {
			_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
	}
}
