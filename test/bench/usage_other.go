//go:build !linux

package main

import "time"

// The figures that only Linux tells cheaply are left out elsewhere.

func cpuOf(int) time.Duration { return 0 }

func cpuOfAlone(int) time.Duration { return 0 }

func memoryOf(int) (now, peak uint64) { return 0, 0 }

func hardware() (processor string, memory uint64, system string) { return "", 0, "" }
