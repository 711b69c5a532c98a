package evm

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
)

// RevertText is what a call said that reverted with this data.
func RevertText(data []byte) string {
	return cmp.Or(decodeRevert(data), "execution reverted")
}

// decodeRevert reads Error(string) and Panic(uint256); anything else is named
// by its selector. Empty data gives "".
func decodeRevert(data []byte) string {
	const (
		errorString = "08c379a0"
		panicCode   = "4e487b71"
	)
	if len(data) < 4 {
		return ""
	}
	selector, body := hex.EncodeToString(data[:4]), data[4:]
	switch {
	case selector == errorString:
		if s, ok := abiString(body); ok {
			return printable(s)
		}
	case selector == panicCode && len(body) == 32:
		return fmt.Sprintf("panic 0x%02x", body[31])
	}
	return "custom error 0x" + selector
}

// abiString decodes one dynamic string return value.
func abiString(b []byte) (string, bool) {
	if len(b) < 64 {
		return "", false
	}
	offset, ok := smallWord(b[:32])
	if !ok || offset > len(b)-32 {
		return "", false
	}
	n, ok := smallWord(b[offset : offset+32])
	if !ok || n > len(b)-offset-32 {
		return "", false
	}
	return string(b[offset+32 : offset+32+n]), true
}

// smallWord reads a word that must be a sane length or offset.
func smallWord(w []byte) (int, bool) {
	for _, b := range w[:28] {
		if b != 0 {
			return 0, false
		}
	}
	n := binary.BigEndian.Uint32(w[28:])
	return int(n), n < 1<<24
}

// printable bounds text that a contract chose.
func printable(s string) string {
	const most = 200
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, ""))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
