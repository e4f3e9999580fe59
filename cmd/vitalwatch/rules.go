package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"vitalwatch/alerting/conditions"
	"vitalwatch/configs"
)

// RulesCmd gathers what can be done with condition packs.
type RulesCmd struct {
	Test RulesTestCmd `cmd:"" help:"Run the unit tests of condition packs."`
}

// RulesTestCmd runs rule unit tests (docs/rules.md).
type RulesTestCmd struct {
	Files  []string `arg:"" optional:"" type:"existingfile" placeholder:"FILE" help:"Test files; without one, the tests beside the configured packs."`
	Config string   `short:"c" type:"path" placeholder:"FILE" help:"Configuration file: its guideline and packs are tested."`
}

// Run prints each failure with its place, then one line of summary.
func (c *RulesTestCmd) Run(k *kong.Context) error {
	cfg, err := LoadConfig(c.Config, os.LookupEnv)
	if err != nil {
		return err
	}
	packs, err := loadPacks(cfg)
	if err != nil {
		return fmt.Errorf("the packs cannot be read:\n%w", err)
	}
	var files []conditions.File
	for _, name := range c.Files {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files = append(files, conditions.File{Name: name, Data: data})
	}
	if len(c.Files) == 0 {
		for _, s := range append([]conditions.Source{{Name: "embedded", FS: configs.Conditions()}}, dirSources(cfg.Conditions.Dirs)...) {
			fs, err := conditions.TestFiles(s)
			if err != nil {
				return err
			}
			files = append(files, fs...)
		}
		files = ownTests(files)
	}
	n, fails, err := conditions.RunTests(packs, files)
	for _, f := range fails {
		fmt.Fprintln(k.Stdout, f)
	}
	if err != nil {
		return fmt.Errorf("the tests cannot be read:\n%w", err)
	}
	fmt.Fprintf(k.Stdout, "%d tests in %d files, %d failures\n", n, len(files), len(fails))
	if len(fails) > 0 {
		return &exitError{1}
	}
	return nil
}

// ownTests leaves out the embedded tests of a pack for which a later folder brings its own test file.
func ownTests(files []conditions.File) []conditions.File {
	base := func(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
	last := map[string]int{}
	for i, f := range files {
		last[base(f.Name)] = i
	}
	var out []conditions.File
	for i, f := range files {
		if last[base(f.Name)] == i {
			out = append(out, f)
		}
	}
	return out
}
