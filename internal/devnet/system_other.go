//go:build !unix

package devnet

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// errUnsupported is what every start returns where there are no Unix
// processes. The rest of the program builds and runs there.
var errUnsupported = errors.New("the development network needs Linux or macOS")

type account struct{}

func plainAccount() (*account, error) { return nil, errUnsupported }

func (*account) give(string) error { return errUnsupported }

func tryLock(*os.File) (bool, error) { return false, errUnsupported }

func ownFile(os.FileInfo) bool { return false }

func processAttributes(program) *syscall.SysProcAttr { return nil }

func guardProcess(context.Context, int, syscall.Signal) (func(), error) { return nil, errUnsupported }
