package main

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"vitalwatch/ingest/journal"
)

// KeepConfig says how long, and how much of it at most, something is kept.
type KeepConfig struct {
	Keep    string `yaml:"keep"`     // 400d, 36h; 0: not at all
	MaxSize string `yaml:"max_size"` // 20GiB, 500MiB; 0: no bound
}

// check records what is wrong with it; mayBeOff allows 0.
func (k *KeepConfig) check(at func(path, format string, args ...any), path string, mayBeOff bool) {
	if d, err := parseSpan(k.Keep); err != nil || d == 0 && !mayBeOff {
		at(path+".keep", "%q is not a time such as 30d or 36h", k.Keep)
	}
	if n, err := parseSize(k.MaxSize); err != nil || n == 0 && !mayBeOff {
		at(path+".max_size", "%q is not a size such as 20GiB or 500MiB", k.MaxSize)
	}
}

func (k *KeepConfig) values() (keep time.Duration, bytes int64) {
	keep, _ = parseSpan(k.Keep) // checked when the configuration was read
	bytes, _ = parseSize(k.MaxSize)
	return keep, bytes
}

// parseSpan reads what time.ParseDuration does, and days: 400d. A number alone is refused unless it is 0.
func parseSpan(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is not a number of days", s)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a time", s)
	}
	return d, nil
}

// parseSize reads a number of bytes with a unit: KiB, MiB, GiB or TiB, or 0.
func parseSize(s string) (int64, error) {
	if s == "0" {
		return 0, nil
	}
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if number, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
			if shift := 10 * (i + 1); err == nil && n > 0 && n <= math.MaxInt64>>shift {
				return n << shift, nil
			}
		}
	}
	return 0, fmt.Errorf("%q is not a size", s)
}

// minFreeAuto leaves a tenth of the disk free, at most 1 GiB: a small disk is no reason to take nothing.
const minFreeAuto = "auto"

func (c *Config) minFree() uint64 {
	if free, err := parseSize(c.Journal.MinFree); err == nil {
		return uint64(free)
	}
	// The data folder may not be there yet: the disk is that of the folder it will be in.
	for dir := c.DataDir; ; dir = filepath.Dir(dir) {
		if u, err := vfs.Default.GetDiskUsage(dir); err == nil {
			return autoFree(u.TotalBytes)
		}
		if dir == filepath.Dir(dir) {
			return maxAutoFree
		}
	}
}

// Below minAutoFree Pebble would meet the full disk before we do.
const minAutoFree, maxAutoFree = 16 << 20, 1 << 30

func autoFree(disk uint64) uint64 { return min(max(disk/10, minAutoFree), maxAutoFree) }

// journalOptions are those that the configuration sets.
func (c *Config) journalOptions() (o journal.Options) {
	o.Sync = journal.SyncMode(c.Journal.Sync)
	o.Evidence.Keep, o.Evidence.MaxBytes = c.Evidence.values()
	o.QuarantineKeep, o.QuarantineBytes = c.Quarantine.values()
	o.HeadRoom = c.minFree()
	o.Consumers = []string{consumerStore, consumerAlerts}
	if c.usesInflux() {
		o.Consumers = append(o.Consumers, consumerInflux)
	}
	return o
}
