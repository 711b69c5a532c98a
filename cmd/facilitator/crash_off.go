//go:build !crashpoints

package main

// crashPoint does nothing: only a binary built with the tag crashpoints can be
// told to die.
func crashPoint(console) func(string) { return nil }
