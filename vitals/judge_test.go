package vitals_test

import (
	"testing"
	"time"

	"vitalwatch/vitals"
)

func TestJudgeFreshness_FarAway(t *testing.T) {
	received := vitals.At(time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC))
	for _, tc := range []struct {
		name  string
		taken vitals.Micros
		want  vitals.Freshness
		ahead bool
	}{
		{"now", received, vitals.Live, false},
		{"beyond the clock's tolerance", received.Add(vitals.MaxClockAhead + time.Second), vitals.Doubtful, true},
		{"293 years ahead", vitals.At(received.Time().AddDate(293, 0, 0)), vitals.Doubtful, true},
		{"584 years ahead, one turn of 64 bits of nanoseconds", received + 18446744073709552, vitals.Doubtful, true},
		{"year 9999", vitals.At(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)), vitals.Doubtful, true},
		{"year 1", vitals.At(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)), vitals.Backfill, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if f, ahead := vitals.JudgeFreshness(tc.taken, received); f != tc.want || ahead != tc.ahead {
				t.Errorf("got %v, ahead %v; want %v, %v", f, ahead, tc.want, tc.ahead)
			}
		})
	}
}

func TestMicros_SubSaturates(t *testing.T) {
	const far = vitals.Micros(1) << 62
	for _, tc := range []struct {
		m, o vitals.Micros
		want time.Duration
	}{
		{5, 3, 2 * time.Microsecond},
		{far, 0, time.Duration(1<<63-1) / time.Microsecond * time.Microsecond},
		{0, far, -time.Duration(1<<63-1) / time.Microsecond * time.Microsecond},
	} {
		if got := tc.m.Sub(tc.o); got != tc.want {
			t.Errorf("%d - %d = %v, want %v", tc.m, tc.o, got, tc.want)
		}
	}
}
