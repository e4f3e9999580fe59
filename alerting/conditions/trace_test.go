package conditions_test

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"vitalwatch/alerting"
	"vitalwatch/vitals"
)

// trace reads 2,915 real CGM readings of one person (package iglu); they are not part of the project.
func trace(t *testing.T) []vitals.Reading {
	t.Helper()
	dir := os.Getenv("VITALWATCH_SHARED")
	if dir == "" {
		dir = "../../../shared"
	}
	f, err := os.Open(filepath.Join(dir, "data/cgm/subject1.csv"))
	if err != nil {
		t.Skip("data/cgm/subject1.csv is not here; set VITALWATCH_SHARED to its folder")
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var out []vitals.Reading
	for i, row := range rows[1:] {
		at, err := time.Parse("2006-01-02 15:04:05", row[2])
		if err != nil {
			t.Fatal(err)
		}
		v, err := strconv.ParseFloat(row[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		r := vitals.Reading{Seq: uint64(i + 1), Patient: "P-1", Device: "D-1", Indicator: vitals.Glucose, Unit: vitals.MgDL,
			TakenAt: vitals.At(at), ReceivedAt: vitals.At(at), DeviceSeq: -1}
		r.Set(vitals.Value, v)
		out = append(out, r)
	}
	return out
}

func TestRealTrace(t *testing.T) {
	rs := trace(t)
	set, err := embedded(t).Compile([]string{"type2_diabetes"})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("live it opens and clears lows and highs", func(t *testing.T) {
		p, out := alerting.NewPatient("P-1", set), alerting.Decisions{}
		for i := range rs {
			p.Observe(&rs[i], &out)
		}
		n := map[string]int{}
		for _, x := range out.Transitions {
			n[string(x.Rule)+" "+string(x.Kind)]++
		}
		for _, rule := range []string{"glucose_low", "glucose_high"} {
			opened, resolved := n[rule+" opened"], n[rule+" resolved"]
			if opened == 0 || opened-resolved < 0 || opened-resolved > 1 {
				t.Errorf("%s opened %d times, resolved %d times", rule, opened, resolved)
			}
		}
		// 4 readings of 70 or less and 11 above 250 in two weeks: an alert for each excursion, not for each reading.
		if n["glucose_low opened"] > 4 || n["glucose_high opened"] > 6 {
			t.Errorf("too many alerts: %v", n)
		}
		t.Log(n)
	})
	t.Run("as history it opens nothing and is found", func(t *testing.T) {
		p, out := alerting.NewPatient("P-1", set), alerting.Decisions{}
		received := rs[len(rs)-1].TakenAt + vitals.Hour
		beyond := 0
		for i := range rs {
			r := rs[i]
			r.ReceivedAt = received
			r.Freshness, _ = vitals.JudgeFreshness(r.TakenAt, received)
			p.Observe(&r, &out)
			if r.V[0] <= 70 || r.V[0] > 250 {
				beyond++
			}
		}
		if len(out.Transitions) != 0 || len(out.Findings) != beyond || beyond == 0 {
			t.Errorf("%d transitions, %d findings for %d readings beyond a line", len(out.Transitions), len(out.Findings), beyond)
		}
	})
}
