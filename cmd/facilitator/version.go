package main

import (
	"context"
	"fmt"
	"runtime"
)

func printVersion(_ context.Context, _ []string, c console) error {
	_, err := fmt.Fprintf(c.out, "facilitator %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
