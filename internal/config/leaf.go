package config

import (
	"encoding"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// isLeaf tells a setting from a section, a map of sections or a list of them.
func isLeaf(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return false
	case reflect.Slice:
		return t.Elem().Kind() != reflect.Struct
	default:
		return true
	}
}

func isSecret(t reflect.Type) bool { return t == reflect.TypeFor[Secret]() }

// setText gives the setting v the value that text says. It is the one reader
// of defaults, ranges, YAML scalars and environment variables. Its errors do
// not quote the text.
func setText(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			return errors.New("must be debug, info, warn or error") // slog.Level is the only one
		}
		return nil
	}
	if v.Type() == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(text)
		if err != nil {
			return errors.New("must be a duration such as 200ms or 20s")
		}
		v.SetInt(int64(d))
		return nil
	}

	digits := strings.ReplaceAll(text, "_", "") // 10_000_000_000 is easier to get right
	switch v.Kind() {
	case reflect.Bool:
		if text != "true" && text != "false" {
			return errors.New("must be true or false")
		}
		v.SetBool(text == "true")
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || v.OverflowInt(n) {
			return errors.New("must be a whole number")
		}
		v.SetInt(n)
	case reflect.Uint64:
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			return errors.New("must be a whole number, not negative")
		}
		v.SetUint(n)
	case reflect.Slice:
		items := []string{}
		for item := range strings.SplitSeq(text, ",") {
			items = append(items, strings.TrimSpace(item))
		}
		v.Set(reflect.ValueOf(items))
	default:
		v.SetString(text)
	}
	return nil
}

// inRange compares a number or duration with a range tag, "1s..80s".
func inRange(v reflect.Value, limits string) (bool, error) {
	low, high, ok := strings.Cut(limits, "..")
	if !ok {
		return false, errors.New("has a malformed range")
	}
	least, most := reflect.New(v.Type()).Elem(), reflect.New(v.Type()).Elem()
	if err := errors.Join(setText(least, low), setText(most, high)); err != nil {
		return false, err
	}
	if v.CanUint() {
		return least.Uint() <= v.Uint() && v.Uint() <= most.Uint(), nil
	}
	return least.Int() <= v.Int() && v.Int() <= most.Int(), nil
}
