package config

import (
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const envPrefix = "FACILITATOR_"

// envName is the environment variable of the setting at path:
// FACILITATOR_CHAINS_EIP155_8453_LANES_0_PRIVATE_KEY.
func envName(path string) string {
	return envPrefix + strings.ToUpper(notAlphanumeric.ReplaceAllString(path, "_"))
}

var notAlphanumeric = regexp.MustCompile(`[^A-Za-z0-9]+`)

// foreign tells variables that begin with our prefix but are no settings.
func foreign(name, value string) bool {
	switch name {
	case "FACILITATOR_CONFIG", // the configuration file, where the command line names none
		"FACILITATOR_TOOLS",    // where the tests and the dev command find their programs
		"FACILITATOR_CRASH_AT": // the instruction at which a crash test ends the process
		return true
	}
	// Kubernetes describes a service named "facilitator", or "facilitator-...",
	// to every pod beside it: FACILITATOR_PORT=tcp://10.0.0.1:4020.
	return serviceVariable.MatchString(name) || servicePort.MatchString(name) && strings.Contains(value, "://")
}

var (
	serviceVariable = regexp.MustCompile(`_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)
	servicePort     = regexp.MustCompile(`_PORT$`)
)

// readEnvironment lays the environment over everything else. An empty variable
// says nothing, but its name must be right all the same.
func (l *loader) readEnvironment(environ []string) {
	values := map[string]string{}
	var names []string
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, envPrefix) || foreign(name, value) {
			continue
		}
		if _, seen := values[name]; !seen {
			names = append(names, name)
		}
		values[name] = value
	}
	slices.Sort(names)

	for _, name := range names {
		steps, isFile := findVariable(reflect.TypeFor[Config](), strings.TrimPrefix(name, envPrefix))
		switch {
		case steps == nil:
			l.problem(name, "", "is an environment variable that names no setting")
		case values[name] == "":
		case isFile && values[strings.TrimSuffix(name, strings.ToUpper(fileSuffix))] != "":
			l.problem(name, "", "is given together with %s", strings.TrimSuffix(name, strings.ToUpper(fileSuffix)))
		default:
			l.setVariable(name, values[name], steps, isFile)
		}
	}
}

var (
	chainVariable = regexp.MustCompile(`^([A-Z0-9]+)_([0-9]+)_(.+)$`)
	itemVariable  = regexp.MustCompile(`^([0-9]{1,2})_(.+)$`) // enough for any list here
)

// findVariable returns the steps from t to the setting that name means, or nil.
// It looks only at types, so that a wrong name adds no chain and no lane.
func findVariable(t reflect.Type, name string) (steps []string, isFile bool) {
	switch t.Kind() {
	case reflect.Map:
		if m := chainVariable.FindStringSubmatch(name); m != nil {
			if rest, isFile := findVariable(t.Elem().Elem(), m[3]); rest != nil {
				return append([]string{strings.ToLower(m[1]) + ":" + m[2]}, rest...), isFile
			}
		}
	case reflect.Slice:
		if m := itemVariable.FindStringSubmatch(name); m != nil {
			if rest, isFile := findVariable(t.Elem(), m[2]); rest != nil {
				return append([]string{m[1]}, rest...), isFile
			}
		}
	default:
		for i := range t.NumField() {
			key := t.Field(i).Tag.Get("yaml")
			after, ok := strings.CutPrefix(name, strings.ToUpper(key))
			if !ok {
				continue
			}
			if isLeaf(t.Field(i).Type) {
				isFile := after == strings.ToUpper(fileSuffix) && isSecret(t.Field(i).Type)
				if after == "" || isFile {
					return []string{key}, isFile
				}
			} else if after, ok := strings.CutPrefix(after, "_"); ok {
				if rest, isFile := findVariable(t.Field(i).Type, after); rest != nil {
					return append([]string{key}, rest...), isFile
				}
			}
		}
	}
	return nil, false
}

// setVariable walks the steps, adding chains and lanes that the files do not
// have, and sets what it finds at their end.
func (l *loader) setVariable(name, value string, steps []string, isFile bool) {
	path, v := "", reflect.ValueOf(l.config).Elem()
	for _, step := range steps {
		switch v.Kind() {
		case reflect.Map:
			path, v = join(path, step), l.chain(step)
		case reflect.Slice:
			i, err := strconv.Atoi(step)
			if err != nil {
				l.problem(name, "", "%v", err)
				return
			}
			if missing := i + 1 - v.Len(); missing > 0 {
				v.Set(l.grown(v, i+1))
			}
			path, v = index(path, i), v.Index(i)
		default:
			i, _ := fieldWithKey(v.Type(), step)
			path, v = join(path, step), v.Field(i)
		}
	}

	l.origins[path] = name
	switch {
	case isFile:
		l.setSecretFile(path, v, value)
	case isSecret(v.Type()):
		l.setSecret(path, v, value)
	default:
		if v.Kind() == reflect.Slice {
			l.forget(path)
		}
		if err := setText(v, value); err != nil {
			l.problem(path, name, "%v", err)
		}
	}
}
