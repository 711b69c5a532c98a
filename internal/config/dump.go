package config

import (
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// Dump writes the configuration in force as YAML, secrets redacted.
func (c *Config) Dump(w io.Writer) error {
	encoder := yaml.NewEncoder(w)
	encoder.SetIndent(2)
	if err := encoder.Encode(c); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := encoder.Close(); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
