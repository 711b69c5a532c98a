package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ticks of the kernel's accounting in a second, whatever the kernel's own.
const ticks = 100

// cpuOf is the processor time that a process and its children have used.
func cpuOf(pid int) time.Duration {
	_, own := accounted(pid)
	total := own.self + own.ended
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0
	}
	for _, file := range stats {
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		if parent, used := accounted(child); parent == pid {
			total += used.self + used.ended
		}
	}
	return total
}

// cpuOfAlone is the processor time of a process without its children's.
func cpuOfAlone(pid int) time.Duration {
	_, used := accounted(pid)
	return used.self
}

type times struct{ self, ended time.Duration } // ended: children that were waited for

// accounted reads a process's parent and times; zeros if it is gone.
func accounted(pid int) (parent int, t times) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, t
	}
	// What follows the name, which may hold anything, in its parentheses.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 15 {
		return 0, t
	}
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(fields[i], 10, 64) // the kernel writes numbers
		return n
	}
	tick := time.Second / ticks
	t.self = time.Duration(number(11)+number(12)) * tick
	t.ended = time.Duration(number(13)+number(14)) * tick
	return int(number(1)), t
}

// memoryOf is what a process has in memory, and the most it ever had, in bytes.
func memoryOf(pid int) (now, peak uint64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		kilobytes, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64) // 0 for other lines
		switch name {
		case "VmRSS":
			now = kilobytes << 10
		case "VmHWM":
			peak = kilobytes << 10
		}
	}
	return now, peak
}

// hardware is the processor's name and the machine's memory in bytes.
func hardware() (processor string, memory uint64, system string) {
	find := func(file, key string) string {
		text, err := os.ReadFile(file) //nolint:gosec // of the kernel
		if err != nil {
			return ""
		}
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	kilobytes, _ := strconv.ParseUint(strings.TrimSuffix(find("/proc/meminfo", "MemTotal"), " kB"), 10, 64) // 0: not known
	var name syscall.Utsname
	if err := syscall.Uname(&name); err == nil {
		for _, c := range name.Release {
			if c == 0 {
				break
			}
			system += string(rune(c))
		}
	}
	return find("/proc/cpuinfo", "model name"), kilobytes << 10, system
}
