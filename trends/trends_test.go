package trends_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"vitalwatch/trends"
	"vitalwatch/vitals"
)

func near(t *testing.T, what string, got, want, tol float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tol) {
		t.Errorf("%s: got %.7f, want %.7f", what, got, want)
	}
}

// Check values of facts/clinical.md C1.
func TestGlucose_singleValues(t *testing.T) {
	for g, want := range map[float64]float64{50: 22.4996, 54: 18.4607, 70: 7.7549, 100: 0.4820} {
		l, h := trends.RiskIndices([]float64{g})
		near(t, "LBGI", l, want, 5e-5)
		near(t, "HBGI of a low", h, 0, 0)
	}
	for g, want := range map[float64]float64{140: 1.6649, 180: 7.7290, 250: 22.4354, 300: 33.9508, 400: 57.0441} {
		l, h := trends.RiskIndices([]float64{g})
		near(t, "HBGI", h, want, 5e-5)
		near(t, "LBGI of a high", l, 0, 0)
	}
	for mean, want := range map[float64]float64{100: 5.7, 150: 6.9, 154: 7.0, 183: 7.7, 212: 8.4, 240: 9.1} {
		near(t, "GMI", trends.GMI(mean), want, 0.05)
	}
	for mean, want := range map[float64]float64{126: 6.0, 154: 7.0, 183: 8.0, 212: 9.0, 240: 9.99} {
		near(t, "eA1C", trends.EA1C(mean), want, 0.05)
	}
	for _, c := range [][5]float64{{2, 3, 25, 10, 49.2}, {0, 1, 10, 5, 18.4}, {1, 4, 25, 10, 48.6}, {3, 5, 30, 22, 80.2}, {40, 0, 0, 0, 100}} {
		near(t, "GRI", trends.GRI(c[0], c[1], c[2], c[3]), c[4], 1e-9)
	}
	v := []float64{170, 100, 120, 120, 130, 120, 130, 150}
	near(t, "SD", trends.SD(v), 21.38, 0.005)
	near(t, "median", trends.Median(v), 125, 0)
	near(t, "GRADE at its cap", trends.GRADE(20), 50, 0)
	near(t, "M at 90", trends.MValue(90), 0, 0)
}

// Check values of facts/clinical.md C3.
func TestTrendsAndCharts(t *testing.T) {
	y := []float64{70.1, 70.3, 70.0, 70.4, 70.9, 71.2, 71.0, 71.8, 72.1, 72.5}
	x := make([]float64, len(y))
	for i := range x {
		x[i] = float64(i)
	}
	m := trends.MannKendall(y)
	near(t, "S", m.S, 39, 0)
	near(t, "variance", m.Variance, 125, 0)
	near(t, "z", m.Z, 3.398823, 5e-7)
	near(t, "p", m.P, 0.000677, 5e-7)
	slope, intercept := trends.TheilSen(x, y)
	near(t, "slope", slope, 0.30, 1e-9)
	near(t, "intercept", intercept, 69.70, 1e-9)
	y = []float64{5, 5, 6, 7, 7, 7, 8}
	m = trends.MannKendall(y)
	near(t, "S with ties", m.S, 17, 0)
	near(t, "variance with ties", m.Variance, 39.6667, 5e-5)
	near(t, "z with ties", m.Z, 2.540429, 5e-7)
	slope, _ = trends.TheilSen(x[:7], y)
	near(t, "slope with ties", slope, 0.5, 1e-12)
	if m := trends.MannKendall([]float64{3, 3, 3}); m.Z != 0 || m.P != 1 {
		t.Errorf("a level line: got %+v", m)
	}

	x = []float64{60, 61, 59, 60, 62, 63, 64, 65, 64, 66}
	z, up, _ := trends.EWMA(x, 60, 2, 0.2, 3)
	for i, want := range []float64{60, 60.2, 59.96, 59.968, 60.3744, 60.89952, 61.519616, 62.215693, 62.572554, 63.258043} {
		near(t, "EWMA", z[i], want, 5e-7)
		if got := z[i] > up[i]; got != (i+1 >= 8) {
			t.Errorf("EWMA at %d is above its limit: %v", i+1, got)
		}
	}
	near(t, "EWMA limit", up[7], 61.971652, 5e-7)
	high, low := trends.CUSUM(x, 60, 2, 0.5)
	if d := cmp.Diff([]float64{0, 0, 0, 0, 1, 3, 6, 10, 13, 18}, high); d != "" {
		t.Errorf("CUSUM\n%s", d)
	}
	if slices.Max(low) != 0 {
		t.Errorf("lower CUSUM of a rising series: %v", low)
	}
	near(t, "robust z", trends.RobustZ([]float64{58, 59, 60, 57, 61, 58, 60}, 66), 4.7214, 5e-5)
	near(t, "SV", trends.SV([]float64{812, 830, 795, 840, 822, 801}), 29.458445, 5e-7) // RMSSD is the same sum
	near(t, "SD of RR", trends.SD([]float64{812, 830, 795, 840, 822, 801}), 17.247222, 5e-7)
}

var shanghai = time.FixedZone("CST", 8*3600)

func bp(day, hour, minute int, s, d, p float64) vitals.Reading {
	r := vitals.Reading{Indicator: vitals.BloodPressure, Unit: vitals.MmHg, DeviceSeq: -1,
		TakenAt: vitals.At(time.Date(2026, 4, day, hour, minute, 0, 0, shanghai))}
	r.Set(vitals.Systolic, s)
	r.Set(vitals.Diastolic, d)
	if p != 0 {
		r.Set(vitals.Pulse, p)
	}
	return r
}

func TestCompute_bloodPressure(t *testing.T) {
	// The first rows of a published home series (facts C2).
	rs := []vitals.Reading{bp(15, 23, 38, 133, 74, 67), bp(15, 23, 43, 118, 72, 70), bp(16, 8, 58, 137, 80, 79),
		bp(16, 9, 7, 135, 86, 80), bp(17, 9, 50, 147, 90, 80), bp(17, 21, 52, 138, 81, 76)}
	got := trends.Compute(rs, trends.Options{Indicator: vitals.BloodPressure, Zone: shanghai})
	for k, want := range map[string]float64{
		"systolic_mean": 808.0 / 6, "diastolic_mean": 483.0 / 6, "pulse_mean": 452.0 / 6,
		"systolic_arv": (15 + 19 + 2 + 12 + 9) / 5.0, "systolic_sd": 9.4798, "systolic_cv": 100 * 9.4798 / (808.0 / 6),
		"systolic_load": 100 * 4.0 / 6, "diastolic_load": 100 * 2.0 / 6, "load": 100 * 4.0 / 6,
		"pulse_pressure_mean": (808 - 483) / 6.0, "map_mean": (483 + (808.0-483)/3) / 6,
		"morning_n": 3, "evening_n": 3, "morning_systolic_mean": 419.0 / 3, "evening_systolic_mean": 389.0 / 3,
		"morning_evening_systolic_difference": 10, "days": 3, "systolic_min": 118, "systolic_max": 147,
		"protocol_n": 4, "protocol_days": 2, "protocol_systolic_mean": 557.0 / 4,
	} {
		near(t, k, got.Metrics[k], want, 0.003)
	}
	if got.Sufficient || got.State != trends.Insufficient || got.Reason != trends.FewReadings {
		t.Errorf("six readings: got %v %s %s", got.Sufficient, got.State, got.Reason)
	}
	if _, there := got.Metrics["device_mean"]; there {
		t.Error("a mean pressure that no device measured")
	}
	// kPa come out in mmHg.
	k := bp(1, 8, 0, 16, 10, 0)
	k.Unit = vitals.KPa
	near(t, "kPa", trends.Compute([]vitals.Reading{k}, trends.Options{Indicator: vitals.BloodPressure}).Metrics["systolic_mean"], 120.00987, 1e-5)
}

func TestCompute_bloodPressureSufficiency(t *testing.T) {
	series := func(days, perDay int) (rs []vitals.Reading) {
		for d := range days {
			for i := range perDay {
				rs = append(rs, bp(1+d, 7+i*4, 0, 130, 80, 70))
			}
		}
		return rs
	}
	for _, tt := range []struct {
		days, perDay  int
		state, reason string
		protocol      float64
	}{
		{0, 0, trends.Insufficient, trends.NoReadings, 0},
		{2, 4, trends.Insufficient, trends.FewDays, 4},
		{4, 2, trends.Insufficient, trends.FewReadings, 6},
		{4, 3, trends.Provisional, trends.FewDays, 9},
		{7, 4, trends.Complete, "", 24},
		{20, 4, trends.Complete, "", 24},
	} {
		got := trends.Compute(series(tt.days, tt.perDay), trends.Options{Indicator: vitals.BloodPressure, Zone: shanghai})
		if got.State != tt.state || got.Reason != tt.reason || got.Metrics["protocol_n"] != tt.protocol || got.Sufficient != (tt.state == trends.Complete) {
			t.Errorf("%d days of %d: got %s %s %v, want %s %s %v", tt.days, tt.perDay, got.State, got.Reason, got.Metrics["protocol_n"], tt.state, tt.reason, tt.protocol)
		}
	}
}

func TestCompute_whatCounts(t *testing.T) {
	at := vitals.At(time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC))
	with := func(v float64, f func(*vitals.Reading)) vitals.Reading {
		at += vitals.Hour
		r := glucose(at, v, vitals.MgDL, 0)
		f(&r)
		return r
	}
	flag := func(f vitals.Flags) func(*vitals.Reading) { return func(r *vitals.Reading) { r.Flags = f } }
	rs := []vitals.Reading{
		with(100, func(*vitals.Reading) {}),
		with(200, flag(vitals.SelfReported|vitals.FromMemory|vitals.LowBattery)),
		with(620, func(r *vitals.Reading) { r.Quality = vitals.Suspect }), // beyond the usual, but measured
		with(5000, func(r *vitals.Reading) { r.Quality = vitals.Invalid }),
		with(40, flag(vitals.BelowRange)),
		with(600, flag(vitals.AboveRange)),
		with(77, flag(vitals.Movement)),
		with(78, flag(vitals.Questionable)),
		with(78, flag(vitals.DisplayOnly)),
		with(79, func(r *vitals.Reading) { r.Indicator = vitals.HeartRate }),
		with(80, func(r *vitals.Reading) { r.TakenAt += 30 * vitals.Day }), // on the upper bound: outside
	}
	got := trends.Compute(rs, trends.Options{Indicator: vitals.Glucose, From: rs[0].TakenAt, To: rs[10].TakenAt})
	near(t, "mean", got.Metrics["mean"], 920.0/3, 1e-9)
	if got.N != 3 || got.SelfReported != 1 || got.Excluded != (trends.Excluded{Invalid: 1, BelowRange: 1, AboveRange: 1, Flagged: 2, DisplayOnly: 1}) {
		t.Errorf("got %d, %d, %+v", got.N, got.SelfReported, got.Excluded)
	}
	if got.Kind != "smbg" || got.Reason != trends.FewReadings {
		t.Errorf("got %s %s", got.Kind, got.Reason)
	}
}

// The lines are pairs: each reading is compared in the unit it came in.
func TestCompute_linesArePairs(t *testing.T) {
	at := vitals.At(time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC))
	for _, tt := range []struct {
		v    float64
		u    vitals.Unit
		want string
	}{
		{53.9, vitals.MgDL, "below_54"}, {54, vitals.MgDL, "from_54_to_70"}, {69.9, vitals.MgDL, "from_54_to_70"}, {70, vitals.MgDL, "time_in_range"},
		{180, vitals.MgDL, "time_in_range"}, {180.1, vitals.MgDL, "from_180_to_250"}, {250, vitals.MgDL, "from_180_to_250"}, {250.1, vitals.MgDL, "above_250"},
		{2.9, vitals.MmolL, "below_54"}, {3.0, vitals.MmolL, "from_54_to_70"}, {3.8, vitals.MmolL, "from_54_to_70"}, {3.9, vitals.MmolL, "time_in_range"},
		{10.0, vitals.MmolL, "time_in_range"}, {10.1, vitals.MmolL, "from_180_to_250"}, {13.9, vitals.MmolL, "from_180_to_250"}, {14.0, vitals.MmolL, "above_250"},
	} {
		got := trends.Compute([]vitals.Reading{glucose(at, tt.v, tt.u, 0)}, trends.Options{Indicator: vitals.Glucose})
		for _, k := range []string{"below_54", "from_54_to_70", "time_in_range", "from_180_to_250", "above_250"} {
			want := 0.0
			if k == tt.want {
				want = 100
			}
			if got.Metrics[k] != want {
				t.Errorf("%v %s: %s is %v, want %v", tt.v, tt.u, k, got.Metrics[k], want)
			}
		}
	}
}

func TestCompute_averagesReadingsOfOneTime(t *testing.T) {
	at := vitals.At(time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC))
	rs := []vitals.Reading{glucose(at, 100, vitals.MgDL, 0), glucose(at, 200, vitals.MgDL, 1), glucose(at+vitals.Hour, 90, vitals.MgDL, 2)}
	near(t, "mean", trends.Compute(rs, trends.Options{Indicator: vitals.Glucose}).Metrics["mean"], 120, 0)
}

func TestCompute_weight(t *testing.T) {
	var rs []vitals.Reading
	for i, kg := range []float64{70.1, 70.3, 70.0, 70.4, 70.9, 71.2, 71.0, 71.8, 72.1, 72.5} {
		r := vitals.Reading{Indicator: vitals.Weight, Unit: vitals.Kg, DeviceSeq: -1, TakenAt: vitals.At(time.Date(2026, 11, 1+i, 7, 0, 0, 0, shanghai))}
		r.Set(vitals.Value, kg)
		if i%2 == 1 { // the same weights from a scale that shows jin
			r.Unit = vitals.Jin
			r.Set(vitals.Value, kg*2)
		}
		rs = append(rs, r)
	}
	got := trends.Compute(rs, trends.Options{Indicator: vitals.Weight, Zone: shanghai})
	near(t, "slope", got.Metrics["slope_per_day"], 0.30, 1e-9)
	near(t, "z", got.Metrics["trend_z"], 3.398823, 5e-7)
	near(t, "days", got.Metrics["days"], 10, 0)
	if !got.Sufficient || got.Unit != "kg" {
		t.Errorf("got %v %s", got.Sufficient, got.Unit)
	}
}

// Neither order of arrival nor doubling changes a glucose metric; all that comes out is JSON.
func TestCompute_order(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ind := rapid.SampledFrom([]vitals.Indicator{vitals.Glucose, vitals.BloodPressure, vitals.HeartRate, vitals.SpO2}).Draw(t, "indicator")
		var rs []vitals.Reading
		for i, v := range rapid.SliceOfN(rapid.IntRange(31, 400), 0, 60).Draw(t, "values") {
			r := vitals.Reading{Indicator: ind, Unit: ind.Units()[0], DeviceSeq: int64(i), Seq: uint64(i + 1),
				TakenAt: 1795300000000000 + vitals.Micros(rapid.IntRange(0, 3000).Draw(t, "minute"))*vitals.Minute}
			r.Set(ind.Components()[0], float64(v)/10)
			if ind == vitals.BloodPressure {
				r.Set(vitals.Diastolic, float64(v)/20)
			}
			rs = append(rs, r)
		}
		opt := trends.Options{Indicator: ind, Zone: shanghai}
		want := trends.Compute(rs, opt)
		mixed := slices.Clone(rs)
		rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed"))).Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		if d := cmp.Diff(want, trends.Compute(mixed, opt)); d != "" {
			t.Fatalf("another order\n%s", d)
		}
		if _, err := json.Marshal(want); err != nil {
			t.Fatal(err)
		}
	})
}

func TestGrid_leavesGapsOpen(t *testing.T) {
	at := func(m int) vitals.Micros {
		return vitals.At(time.Date(2026, 11, 1, 0, 0, 0, 0, shanghai).Add(time.Duration(m) * time.Minute))
	}
	ps := []trends.Point{{At: at(10), MgDL: 100}, {At: at(20), MgDL: 120}, {At: at(65), MgDL: 210}, {At: at(111), MgDL: 90}}
	got := trends.NewGrid(ps, 5*time.Minute, shanghai).V
	nan := math.NaN()
	want := []float64{nan, 100, 110, 120, 130, 140, 150, 160, 170, 180, 190, 200, 210, nan, nan, nan, nan, nan, nan, nan, nan, nan}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b float64) bool { return math.IsNaN(a) && math.IsNaN(b) || math.Abs(a-b) < 1e-9 })); d != "" {
		t.Error(d)
	}
}

func TestMAGE_countsSwingsOfOneSDAndMore(t *testing.T) {
	var ps []trends.Point
	for i := range 288 * 2 {
		v := 120 + 60*math.Sin(2*math.Pi*float64(i)/72) + 4*math.Sin(2*math.Pi*float64(i)/7)
		ps = append(ps, trends.Point{At: 1795305600000000 + vitals.Micros(i)*5*vitals.Minute, MgDL: v})
	}
	near(t, "MAGE of a wave of 120 from trough to crest", trends.MAGE(ps, time.UTC), 124, 8)
}

// go test -bench Compute ./trends
func BenchmarkCompute(b *testing.B) {
	var rs []vitals.Reading
	for i := range 90 * 288 {
		rs = append(rs, glucose(vitals.Micros(1795305600000000)+vitals.Micros(i)*5*vitals.Minute, 120+40*math.Sin(float64(i)/37), vitals.MgDL, i))
	}
	b.ReportAllocs()
	for b.Loop() {
		trends.Compute(rs, trends.Options{Indicator: vitals.Glucose, Zone: shanghai})
	}
}
