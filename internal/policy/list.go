package policy

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"facilitator/internal/chain"
)

// Format of a list's file.
type Format string

// Formats.
const (
	// FormatPlain: one address in a line; what follows a # is a comment.
	FormatPlain Format = "plain"
	// FormatOFAC: the SDN list of the OFAC as advanced XML. Of its digital currency
	// addresses those that are of an EVM chain's form count.
	FormatOFAC Format = "ofac"
)

// ListConfig is one list in a file.
type ListConfig struct {
	Name, Path string
	Format     Format
	// MaxAge of the file, by which it must have been replaced; 0 for none.
	MaxAge time.Duration
}

const (
	// maxListBytes is several times what the largest list there is has.
	maxListBytes = 1 << 30
	maxAddresses = 1 << 20
)

// list is one file as it was last read.
type list struct {
	*source
	ListConfig
	now func() time.Time
	// file is what it was read from; nil before.
	file fs.FileInfo
	held atomic.Pointer[map[chain.Address]struct{}]
}

var errStale = errors.New("the list is older than max_age")

// ask looks for parties. Who stands on a list that is too old stands on it.
func (l *list) ask(who []party) verdict {
	held := *l.held.Load()
	for i := range who {
		if _, listed := held[who[i].address]; listed {
			return verdict{hit: &who[i]}
		}
	}
	if l.stale() {
		return verdict{err: errStale}
	}
	return verdict{}
}

func (l *list) stale() bool {
	return l.MaxAge > 0 && l.now().Sub(time.Unix(0, l.toldAt.Load())) > l.MaxAge
}

// refresh reads the file if it is another than the one that was read.
func (l *list) refresh(ctx context.Context) error {
	file, err := os.Stat(l.Path)
	if err == nil && l.file != nil && same(file, l.file) {
		return nil
	}
	var held map[chain.Address]struct{}
	if err == nil {
		held, err = l.read()
	}
	if err == nil {
		// One that is written while it is read is read again when it is whole.
		if after, statErr := os.Stat(l.Path); statErr != nil || !same(file, after) {
			err = errors.New("the file changed while it was read")
		}
	}
	if err != nil {
		err = withoutPath(err)
		l.failed(ctx, err)
		return err
	}
	l.file = file
	l.held.Store(&held)
	l.told(ctx, file.ModTime())
	l.metrics.addresses.WithLabelValues(l.Name).Set(float64(len(held)))
	l.log.InfoContext(ctx, "screening list read", slog.String("source", l.Name), slog.Int("addresses", len(held)), slog.Time("of", file.ModTime()))
	return nil
}

func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// withoutPath: the operator's paths are nobody's business where errors are shown.
func withoutPath(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

func (l *list) read() (map[chain.Address]struct{}, error) {
	f, err := os.Open(l.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	held := make(map[chain.Address]struct{})
	add := func(a chain.Address) error {
		held[a] = struct{}{}
		if len(held) > maxAddresses {
			return fmt.Errorf("it holds more than %d addresses", maxAddresses)
		}
		return nil
	}
	bounded := &io.LimitedReader{R: f, N: maxListBytes}
	if l.Format == FormatOFAC {
		err = readOFAC(bounded, add)
	} else {
		err = readPlain(bounded, add)
	}
	switch {
	case err != nil:
		return nil, err
	case bounded.N == 0:
		return nil, errors.New("it is too large")
	case len(held) == 0: // a list that lost what it held must not pass for one that holds nothing
		return nil, errors.New("it holds no address")
	}
	return held, nil
}

func readPlain(r io.Reader, add func(chain.Address) error) error {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		a, ok := parseAddress(text)
		if !ok {
			return fmt.Errorf("line %d is no address", n)
		}
		if err := add(a); err != nil {
			return err
		}
	}
	return lines.Err()
}

// parseAddress reads 0x and 40 hex digits in any case: whoever is meant by an
// address with a wrong checksum had better be found.
func parseAddress(text string) (a chain.Address, ok bool) {
	digits, ok := strings.CutPrefix(strings.ToLower(text), "0x")
	if !ok || len(digits) != 2*len(a) {
		return a, false
	}
	_, err := hex.Decode(a[:], []byte(digits))
	return a, err == nil
}

const digitalCurrency = "Digital Currency Address"

// readOFAC reads the file from its begin to its end and keeps nothing of it but
// the addresses. Which kinds of feature are addresses is told before the first
// party is. A file that ends early is no list.
func readOFAC(r io.Reader, add func(chain.Address) error) error {
	d := xml.NewDecoder(r)
	kinds := make(map[string]bool)
	inside := false // a feature that is an address
	for first := true; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("it is no whole XML document: %w", err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			if first && e.Name.Local != "Sanctions" {
				return errors.New("it is not the advanced XML of a sanctions list")
			}
			first = false
			switch e.Name.Local {
			case "FeatureType":
				text, err := textOf(d)
				if err != nil {
					return err
				}
				if strings.HasPrefix(text, digitalCurrency) {
					kinds[attribute(e, "ID")] = true
				}
			case "Feature":
				inside = kinds[attribute(e, "FeatureTypeID")]
			case "VersionDetail":
				if !inside {
					continue
				}
				text, err := textOf(d)
				if err != nil {
					return err
				}
				if a, ok := parseAddress(text); ok {
					if err := add(a); err != nil {
						return err
					}
				}
			}
		case xml.EndElement:
			inside = inside && e.Name.Local != "Feature"
		}
	}
	if len(kinds) == 0 {
		return errors.New("it knows no digital currency addresses")
	}
	return nil
}

// textOf reads what an element holds, to its end.
func textOf(d *xml.Decoder) (string, error) {
	var text strings.Builder
	for depth := 1; depth > 0; {
		token, err := d.Token()
		if err != nil {
			return "", fmt.Errorf("it is no whole XML document: %w", err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			depth++
		case xml.EndElement:
			depth--
		case xml.CharData:
			text.Write(e)
		}
	}
	return strings.TrimSpace(text.String()), nil
}

func attribute(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}
