// Package care owns the people who are watched: Patient, Team, membership of conditions and teams, personal
// thresholds, and their tables. It owns no device (devices), no rule (alerting) and no coach's rights (web).
//
// Concurrency: a Registry is a snapshot in memory of what is committed. Find, All and the other readers may be called
// by any number of goroutines and take no lock for patients known for a while. Writers are serialised; what they change
// is durable when they return and only then visible. A *Patient that was handed out never changes: a change makes a
// new one, and callbacks say so.
package care

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // A zone must mean the same on a machine without zone files.
	"unicode"
	"unicode/utf8"

	"vitalwatch/vitals"
)

// Patient is one watched person. Those handed out by a Registry are shared: read only, slices included.
type Patient struct {
	ID vitals.PatientID
	// Name is personal: shown to the own team, never in logs, topics, metrics or errors. May be "".
	Name string
	// Conditions are condition pack names, sorted, without duplicates. The general pack applies without being here.
	Conditions []string
	// Teams are team ids, sorted, without duplicates.
	Teams []string
	// TZ is an IANA zone for local times, "" when not said.
	TZ string
	// Language is a tag such as "zh-CN" for texts to this person, "" for the house's default.
	Language  string
	CreatedAt vitals.Micros
	// Overrides are the personal thresholds not ended when they were read, in order of From; nil for most.
	Overrides []Override

	loc *time.Location
}

// Location is the patient's zone, nil when not said.
func (p *Patient) Location() *time.Location { return p.loc }

// Override replaces one limit of one rule for one person, in one unit and for a period.
type Override struct {
	Rule     string // alerting.RuleID
	Severity string // alerting.Severity's name
	Unit     vitals.Unit
	Value    float64 // in Unit
	By       string  // the author's login
	Why      string
	From     vitals.Micros // also when it was made
	Until    vitals.Micros // end, exclusive; 0: until it is changed
}

// InForce reports whether the override applies at an instant.
func (o *Override) InForce(at vitals.Micros) bool {
	return o.From <= at && (o.Until == 0 || at < o.Until)
}

// Team is a group of coaches and the people they look after.
type Team struct {
	ID        string
	Name      string
	CreatedAt vitals.Micros
}

// What callers branch on. Errors of this package wrap one of these when the caller, not the disk, is the cause.
var (
	ErrNotFound = errors.New("no such patient")
	ErrExists   = errors.New("patient exists already")
	ErrInvalid  = errors.New("invalid patient")
)

// Bounds of what a person's record may hold.
const (
	maxName    = 200 // bytes
	maxPerList = 32
)

// ValidZone reports whether tz is an IANA zone name; "" and "Local" are not: they mean another thing on each machine.
func ValidZone(tz string) bool {
	_, err := zone(tz)
	return err == nil
}

func zone(tz string) (*time.Location, error) {
	if tz == "" || tz == "Local" {
		return nil, fmt.Errorf("zone %q is not an IANA name such as Asia/Shanghai", tz)
	}
	loc, err := time.LoadLocation(tz)
	if err != nil {
		return nil, fmt.Errorf("zone %q is not an IANA name such as Asia/Shanghai", tz)
	}
	return loc, nil
}

// validate checks and tidies p: lists come out sorted and without duplicates. known may be nil.
func (p *Patient) validate(known func() []string) error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, a...))
	}
	if !vitals.ValidID(string(p.ID)) {
		return bad("the id must be 1 to %d of A-Z a-z 0-9 _ -", vitals.MaxIDLen)
	}
	// The name itself is never part of an error: it is personal.
	if len(p.Name) > maxName || !utf8.ValidString(p.Name) || strings.ContainsFunc(p.Name, unicode.IsControl) {
		return bad("the name of %s must be at most %d bytes of UTF-8 without control characters", p.ID, maxName)
	}
	if p.TZ != "" && !ValidZone(p.TZ) {
		return bad("the zone of %s must be an IANA name such as Asia/Shanghai", p.ID)
	}
	if len(p.Language) > 35 || strings.ContainsFunc(p.Language, notTag) { // 35: RFC 5646 section 4.4.1
		return bad("the language of %s must be a tag such as zh-CN", p.ID)
	}
	if p.Conditions = tidy(p.Conditions); len(p.Conditions) > maxPerList {
		return bad("%s has more than %d conditions", p.ID, maxPerList)
	}
	if p.Teams = tidy(p.Teams); len(p.Teams) > maxPerList {
		return bad("%s has more than %d teams", p.ID, maxPerList)
	}
	for _, t := range p.Teams {
		if !vitals.ValidID(t) {
			return bad("a team id must be 1 to %d of A-Z a-z 0-9 _ -", vitals.MaxIDLen)
		}
	}
	var names []string
	if known != nil && len(p.Conditions) > 0 {
		names = known()
	}
	for _, c := range p.Conditions {
		if known == nil && !vitals.ValidID(c) {
			return bad("condition %q is not a condition name", c)
		}
		if known != nil && !slices.Contains(names, c) {
			return bad("condition %q is unknown; known are %s", c, strings.Join(names, ", "))
		}
	}
	return nil
}

func notTag(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
}

func tidy(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Clip(slices.Compact(list))
}

func (p *Patient) clone() *Patient {
	q := *p
	q.Conditions, q.Teams, q.Overrides = slices.Clone(p.Conditions), slices.Clone(p.Teams), slices.Clone(p.Overrides)
	return &q
}

func (p *Patient) equal(q *Patient) bool {
	return p.ID == q.ID && p.Name == q.Name && p.TZ == q.TZ && p.Language == q.Language && p.CreatedAt == q.CreatedAt &&
		slices.Equal(p.Conditions, q.Conditions) && slices.Equal(p.Teams, q.Teams) && slices.Equal(p.Overrides, q.Overrides)
}
