//go:build !unix

package main

func raiseOpenFiles() int { return 1_024 }
