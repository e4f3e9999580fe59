// Package leaktest fails a package's tests when goroutines outlive them. It owns only how long it waits: goleak's own
// half a second is too short for what is on its way out of a busy machine.
//
// Concurrency: for TestMain and for the ends of tests.
package leaktest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long goroutines have to end; nobody waits for it when all is well.
const patience = 30 * time.Second

// Main runs the tests and ends the process.
func Main(m *testing.M, opts ...goleak.Option) {
	code := m.Run()
	if code == 0 {
		if err := find(patience, opts); err != nil {
			fmt.Fprintf(os.Stderr, "goroutines are left: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}

// None fails the test when there are goroutines beside its own.
func None(t testing.TB, opts ...goleak.Option) {
	t.Helper()
	if err := find(patience, opts); err != nil {
		t.Errorf("goroutines are left: %v", err)
	}
}

func find(within time.Duration, opts []goleak.Option) (err error) {
	for deadline := time.Now().Add(within); ; {
		if err = goleak.Find(opts...); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
