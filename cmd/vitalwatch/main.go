// Command vitalwatch is the server for home health monitoring and everything that goes with it: `vitalwatch
// --help` lists the verbs. Package main owns configuration and wiring; what the verbs do lives in the packages.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// version is set by the linker in releases.
var version = ""

// CLI is the command line (contract section 1).
type CLI struct {
	Serve    ServeCmd    `cmd:"" help:"Run the server. No file is needed: the defaults are complete and bind to loopback only."`
	Demo     DemoCmd     `cmd:"" help:"Run a server in a temporary folder with simulated patients; prints the console's address and login."`
	Simulate SimulateCmd `cmd:"" help:"Virtual patients whose devices publish over MQTT."`
	Publish  PublishCmd  `cmd:"" help:"Send a recorded trace (CSV) as a device would."`
	Check    CheckCmd    `cmd:"" help:"Check configuration and condition packs; all mistakes at once, with file:line:column."`
	Decode   DecodeCmd   `cmd:"" help:"Decode a payload from stdin to JSON lines."`
	Rules    RulesCmd    `cmd:"" help:"Test condition packs."`
	Patient  PatientCmd  `cmd:"" help:"Add, list and change patients."`
	Device   DeviceCmd   `cmd:"" help:"Add, list, bind and disable devices."`
	User     UserCmd     `cmd:"" help:"Add and list people who log in to the console."`
	APIKey   APIKeyCmd   `cmd:"" name:"apikey" help:"Create, list and revoke API keys."`
	Journal  JournalCmd  `cmd:"" help:"Look after the journal."`
	Storage  StorageCmd  `cmd:"" help:"Look after the readings store."`
	Backup   BackupCmd   `cmd:"" help:"Copy everything that a server keeps, also while it runs, and read the copy back."`
	Restore  RestoreCmd  `cmd:"" help:"Put a backup in the place of an empty data folder."`
	Health   HealthCmd   `cmd:"" help:"Ask a running server whether it is ready; for containers and scripts."`
	Secrets  SecretsCmd  `cmd:"" help:"Make the secrets that the services of docker-compose.yml share."`
	Bench    BenchCmd    `cmd:"" help:"Measure ingest, alert latency and feed fan-out on this machine."`
	Version  VersionCmd  `cmd:"" help:"Print the version."`
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// configFromEnvironment is -c of every verb where it is not given: in a container or a shell of the operator's it is
// always the same file.
func configFromEnvironment(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if path := os.Getenv("VITALWATCH_CONFIG"); flag.Name == "config" && path != "" {
		return path, nil
	}
	return nil, nil
}

// timeFlag reads a time; what is none is answered with an example instead of Go's layout.
func timeFlag(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("time", &text); err != nil {
		return err
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return fmt.Errorf("%q is not a time with date and offset, such as 2026-11-21T08:00:00+08:00", text)
	}
	target.Set(reflect.ValueOf(t))
	return nil
}

// run returns the exit status: 0 done, 1 failed, 2 used wrongly.
func run(args []string, stdout, stderr io.Writer) int {
	status, exited := 0, false
	parser, err := kong.New(&CLI{},
		kong.Name("vitalwatch"),
		kong.Description("Home health monitoring: readings in over MQTT, kept, judged, streamed to coaches, escalated."),
		kong.UsageOnError(),
		kong.TypeMapper(reflect.TypeFor[time.Time](), kong.MapperFunc(timeFlag)),
		kong.Resolvers(kong.ResolverFunc(configFromEnvironment)),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { status, exited = code, true }),
	)
	if err != nil {
		fmt.Fprintln(stderr, "vitalwatch:", err)
		return 1
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	ctx, err := parser.Parse(args)
	if exited { // --help
		return status
	}
	if err != nil {
		for verb, instead := range notYet {
			if strings.HasPrefix(strings.Join(args, " ")+" ", verb+" ") {
				fmt.Fprintf(stderr, "vitalwatch: this version has no %s yet; %s\n", verb, instead)
				return 2
			}
		}
		fmt.Fprintf(stderr, "vitalwatch: %v\nTry: %s --help\n", err, where(err))
		return 2
	}
	if err := ctx.Run(); err != nil {
		var silent *exitError
		if errors.As(err, &silent) {
			return silent.code
		}
		fmt.Fprintln(stderr, "vitalwatch:", err)
		var wrong *misuse
		if errors.As(err, &wrong) {
			return 2
		}
		return 1
	}
	return 0
}

// notYet are verbs that are promised and not there, with what to use meanwhile.
var notYet = map[string]string{
	"report":       "the figures are at GET /api/v1/patients/{id}/trends, and on the patient's page of the console",
	"rules replay": "try a pack on readings of your own with: vitalwatch rules test FILE (docs/rules.md)",
}

// where is the command that was understood before the mistake.
func where(err error) string {
	var pe *kong.ParseError
	if errors.As(err, &pe) && pe.Context != nil {
		names := ""
		for n := pe.Context.Selected(); n != nil; n = n.Parent {
			if n.Type == kong.CommandNode { // not n.Path(), which has the aliases too
				names = " " + n.Name + names
			}
		}
		return "vitalwatch" + names
	}
	return "vitalwatch"
}

// misuse is an argument that no run could make sense of: exit status 2, as for what the parser refuses.
type misuse struct{ error }

func misused(format string, args ...any) error { return &misuse{fmt.Errorf(format, args...)} }

// exitError ends the process with a status after the verb has said everything itself.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// VersionCmd prints the version.
type VersionCmd struct{}

// Run prints one line.
func (VersionCmd) Run(k *kong.Context) error {
	_, err := fmt.Fprintln(k.Stdout, "vitalwatch", versionString())
	return err
}

func versionString() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	out, dirty := "devel", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			out += "-" + s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	return out + dirty
}
