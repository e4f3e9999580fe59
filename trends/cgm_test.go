package trends_test

import (
	"encoding/csv"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
	_ "time/tzdata"

	"vitalwatch/trends"
	"vitalwatch/vitals"
)

// shared finds a file of the shared data folder, which is not part of the project, or skips.
func shared(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("VITALWATCH_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not there; set VITALWATCH_SHARED to run this test", name)
	}
	return path
}

func subject1(t *testing.T) []vitals.Reading {
	f, err := os.Open(shared(t, "data/cgm/subject1.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	zone, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	var rs []vitals.Reading
	for i, row := range rows[1:] {
		at, err := time.ParseInLocation(time.DateTime, row[2], zone)
		if err != nil {
			t.Fatal(err)
		}
		v, err := strconv.ParseFloat(row[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, glucose(vitals.At(at), v, vitals.MgDL, i))
	}
	return rs
}

func glucose(at vitals.Micros, v float64, u vitals.Unit, seq int) vitals.Reading {
	r := vitals.Reading{Indicator: vitals.Glucose, Unit: u, TakenAt: at, DeviceSeq: -1, Seq: uint64(seq + 1)}
	r.Set(vitals.Value, v)
	return r
}

// TestCompute_subject1 holds the values of facts/clinical.md C1 for real sensor data of one person.
func TestCompute_subject1(t *testing.T) {
	rs := subject1(t)
	zone, _ := time.LoadLocation("America/New_York")
	got := trends.Compute(rs, trends.Options{Indicator: vitals.Glucose, Zone: zone})
	if got.N != 2915 || got.Unit != "mg/dL" || got.Indicator != "glucose" || got.Kind != "cgm" {
		t.Errorf("got %d readings of %s in %s, %s", got.N, got.Indicator, got.Unit, got.Kind)
	}
	if got.Sufficient || got.Reason != trends.FewDays || got.State != trends.Insufficient {
		t.Errorf("12.7 days are less than 14: got %v, %s, %s", got.Sufficient, got.State, got.Reason)
	}
	if got.From != "2015-06-06T20:50:27.000Z" || got.Last != "2015-06-19T12:59:36.000Z" {
		t.Errorf("from %s, last %s", got.From, got.Last)
	}
	for k, want := range map[string]float64{
		"mean": 123.665523, "sd": 33.268076, "cv": 26.901658, "gmi": 6.268079, "ea1c": 5.936081, "j_index": 24.628155,
		"lbgi": 0.432036, "hbgi": 1.807298, "below_54": 0, "below_70": 0.137221, "time_in_range": 91.663808,
		"above_180": 8.198971, "above_250": 0.377358, "gri": 7.190395, "grade": 3.466390, "m_value": 7.023923,
		"cogi": 92.967042, "conga_24": 37.033463, "modd": 27.808722, "adrr": 15.101109, "active_percent": 79.841139,
		"conga_1": 25.948936, "conga_4": 43.440620, "mag": 27.096841, "gvp": 16.761106, "time_in_tight_range": 73.722127,
		"iqr": 44, "q1": 99, "median": 112, "q3": 143, "min": 66, "max": 276, "mad": 25.2042, "step_minutes": 5,
	} {
		if v, ok := got.Metrics[k]; !ok || math.Abs(v-want) > 0.6e-6 {
			t.Errorf("%s: got %.6f, want %.6f", k, v, want)
		}
	}
	if v := got.Metrics["mage"]; math.Abs(v-72.4) > 0.05 {
		t.Errorf("mage: got %.3f, want 72.4 (iglu 4.3.0)", v)
	}
}
