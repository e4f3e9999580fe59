package escalation_test

import (
	"flag"
	"os"
	"testing"
)

// TestMain lowers the rounds of the property tests, because each opens and migrates databases; -rapid.checks asks for
// more.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		flag.Set("rapid.checks", "20")
	}
	emptyDatabase() // not from within a synctest bubble, which would own what it starts
	os.Exit(m.Run())
}
