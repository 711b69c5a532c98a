package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"facilitator/internal/app"
	"facilitator/internal/config"
	"facilitator/internal/doctor"
)

// examine says what keeps the service from working, as it is configured. It
// changes nothing. A check that fails is a failure.
func examine(ctx context.Context, args []string, c console) error {
	flags, file := newFlags("doctor", c)
	asJSON := flags.Bool("json", false, "print the report as JSON")
	if err := parse(flags, args); err != nil {
		return err
	}
	report := &doctor.Report{}
	cfg, err := config.Load(*file, c.environ)
	if problems := config.Problems(nil); errors.As(err, &problems) {
		for _, p := range problems {
			report.Add(doctor.Check{Area: "configuration", Subject: p.Path, Status: doctor.Fail, Detail: p.Text})
		}
	} else {
		if err != nil {
			return err
		}
		report.Add(doctor.Check{Area: "configuration", Status: doctor.OK, Detail: fmt.Sprintf("%d networks", len(cfg.Chains))})
		app.Examine(ctx, cfg, time.Now, report)
	}
	if *asJSON {
		encoder := json.NewEncoder(c.out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(report)
	} else {
		err = report.Write(c.out)
	}
	if n := report.Failures(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d checks failed", n, len(report.Checks)))
	}
	return err
}
