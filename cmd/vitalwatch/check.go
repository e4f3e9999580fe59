package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/alecthomas/kong"

	"vitalwatch/alerting/conditions"
	"vitalwatch/storage/sqlite"
)

// CheckCmd validates configuration and packs.
type CheckCmd struct {
	Config string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file; without it the defaults are checked."`
}

// Run prints every mistake on stderr, one per line, and fails when there is one.
func (c *CheckCmd) Run(k *kong.Context) error {
	if err := checkAll(c.Config, os.LookupEnv); err != nil {
		fmt.Fprintln(k.Stderr, err)
		return &exitError{1}
	}
	fmt.Fprintln(k.Stdout, "ok")
	return nil
}

// checkAll finds what is wrong with the file and, as far as it names them, with the packs.
func checkAll(path string, environ func(string) (string, bool)) error {
	cfg, doc, err := readConfig(path, environ)
	if err != nil {
		return err
	}
	if !slices.Contains(conditions.Guidelines, cfg.Conditions.Guideline) { // told already; the packs are looked at all the same
		cfg.Conditions.Guideline = ""
	}
	cfg.Conditions.Dirs = slices.DeleteFunc(cfg.Conditions.Dirs, func(d string) bool {
		st, err := os.Stat(d)
		return err != nil || !st.IsDir() // told already
	})
	cfg.Devices.Dirs = slices.DeleteFunc(cfg.Devices.Dirs, func(d string) bool {
		st, err := os.Stat(d)
		return err != nil || !st.IsDir() // told already
	})
	_, mappingsErr := loadMappings(cfg)
	packs, packsErr := loadPacks(cfg)
	if packsErr == nil {
		for i, name := range cfg.DefaultConditions {
			if err := checkCondition(packs, name); err != nil {
				doc.Errorf([]string{"default_conditions", strconv.Itoa(i)}, "%v", err)
			}
		}
	}
	_, modelsErr := loadModels(cfg)
	return errors.Join(doc.Err(), mappingsErr, packsErr, modelsErr)
}

// openState opens the state database of the data folder that the configuration names, for the verbs that work
// beside a running server. Only those that add something make it where there is none: an empty folder made by a look in the
// wrong place would later pass for the server's, and its backup for sound.
func openState(configPath string, adds bool) (*sqlite.DB, error) {
	cfg, err := LoadConfig(configPath, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	if err := cfg.checkData(); err != nil {
		if !adds {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "%s is a new data folder; if the server has another, name its configuration with -c\n", cfg.DataDir)
	}
	return sqlite.Open(cfg.statePath())
}

// checkData: somebody has added something, or a server has run.
func (c *Config) checkData() error {
	if _, err := os.Stat(c.statePath()); err != nil {
		return fmt.Errorf("there is no data at %s; name the server's configuration with -c", c.DataDir)
	}
	return nil
}

// conditionNames lists the conditions that the configured packs define.
func conditionNames(configPath string) ([]string, error) {
	cfg, err := LoadConfig(configPath, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	packs, err := loadPacks(cfg)
	if err != nil {
		return nil, err
	}
	return packs.Conditions(), nil
}
