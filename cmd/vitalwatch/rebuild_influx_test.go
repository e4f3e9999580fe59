package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"vitalwatch/internal/influxtest"
	"vitalwatch/storage"
	"vitalwatch/storage/influx"
	"vitalwatch/vitals"
)

// TestStorageRebuild_fills_InfluxDB that lost readings, holds wrong ones or is empty: it ends as it was, point by point
// and reading by reading.
func TestStorageRebuild_fills_InfluxDB(t *testing.T) {
	srv := influxtest.Local(t)
	s := startServer(t, influxServer(t, srv)+"log: {level: warn}\n")
	people := []string{"P-reb-1", "P-reb-2", "P-reb-3"}
	for _, p := range people {
		variety(t, s, strings.TrimPrefix(p, "P-"))
	}
	// One that is taken back again: its point goes, another comes.
	const observation = `{"resourceType":"Observation","identifier":[{"system":"s","value":"o1"}],"status":%q,"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},` +
		`"effectiveDateTime":%q,"valueQuantity":{"value":88,"system":"http://unitsofmeasure.org","code":"/min"}}`
	at := time.Now().UTC().Add(-3 * time.Hour).Format(time.RFC3339)
	d := connect(t, s, "reb-3x")
	d.send("fhir", fmt.Sprintf(observation, "final", at))
	level(t, s)
	d.send("fhir", fmt.Sprintf(observation, "entered-in-error", at))
	level(t, s)
	people = append(people, "P-reb-3x")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}

	const everything = `SELECT * FROM /.*/ GROUP BY *`
	far, err := influx.Open(t.Context(), influx.Options{URL: srv.URL, Org: srv.Org, Bucket: srv.Bucket})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	readings := func() (out []vitals.Reading) {
		for _, p := range people {
			for r, err := range far.Range(t.Context(), storage.Query{Patient: vitals.PatientID(p)}) {
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, r)
			}
		}
		return out
	}
	points, want := srv.InfluxQL(everything), readings()
	local, cursor := stored(t, s.data("readings"))
	if len(want) < 3*44+1 || len(want) != len(local) || strings.Count(points, "\n") < len(want) {
		t.Fatalf("InfluxDB has %d readings in %d lines, this machine %d readings", len(want), strings.Count(points, "\n"), len(local))
	}
	if n := len(want) - countIf(want, func(r vitals.Reading) bool { return r.Quality == vitals.Invalid }); n != len(want)-1 {
		t.Fatalf("%d of %d readings count, want all but one", n, len(want))
	}

	for _, c := range []struct {
		name   string
		damage func()
		args   []string
	}{
		{"a measurement, a device and what is right are gone", func() {
			srv.InfluxQL(`DROP MEASUREMENT glucose`)
			srv.InfluxQL(`DELETE FROM heart_rate WHERE device = 'reb-2'`)
			r := want[0]
			srv.Write(fmt.Sprintf("%s,device=%s,freshness=%s,patient=%s,quality=%s,unit=%s systolic=1,r=\"AAAA\" %d\n", r.Indicator, r.Device, r.Freshness, r.Patient, r.Quality, r.Unit,
				r.TakenAt.Time().UnixMilli()*1e6+int64(r.Seq)))
		}, nil},
		{"the database is new", func() {
			srv.InfluxQL(`DROP DATABASE "` + srv.Bucket + `"`)
			srv.InfluxQL(`CREATE DATABASE "` + srv.Bucket + `"`)
		}, nil},
		{"both stores are gone", func() {
			srv.InfluxQL(`DROP DATABASE "` + srv.Bucket + `"`)
			srv.InfluxQL(`CREATE DATABASE "` + srv.Bucket + `"`)
			if err := os.RemoveAll(s.data("readings")); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"all is there, the store of this machine is made anew", func() {}, []string{"--fresh"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.damage()
			if damaged := srv.InfluxQL(everything); len(c.args) == 0 && damaged == points {
				t.Fatal("nothing was damaged")
			}
			out := verb(t, append([]string{"storage", "rebuild", "-c", s.conf()}, c.args...)...)
			if strings.Contains(out, "no message is kept") {
				t.Errorf("it says that something is missing:\n%s", out)
			}
			sameReadings(t, "in InfluxDB", readings(), want)
			if now := srv.InfluxQL(everything); now != points {
				t.Errorf("InfluxDB holds other points than before:\n%s\nwant\n%s", now, points)
			}
			got, at := stored(t, s.data("readings"))
			sameReadings(t, "on this machine", got, local)
			if at != cursor {
				t.Errorf("the store on this machine ends at %d, want %d", at, cursor)
			}
		})
	}

	// The server goes on from there: what comes next is written once.
	if _, err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	connect(t, s, "reb-1").send("readings", fmt.Sprintf(`{"indicator":"weight","taken_at":%q,"value":70,"unit":"kg"}`, time.Now().UTC().Format(time.RFC3339)))
	level(t, s)
	if got := readings(); len(got) != len(want)+1 {
		t.Errorf("InfluxDB has %d readings, want %d", len(got), len(want)+1)
	}
	if n := len(list[map[string]any](t, s, "/api/v1/patients/P-reb-1/readings?limit=5000")); n != countIf(want, func(r vitals.Reading) bool { return r.Patient == "P-reb-1" })+1 {
		t.Errorf("the server shows %d readings of P-reb-1", n)
	}
}

func countIf(rs []vitals.Reading, f func(vitals.Reading) bool) (n int) {
	for _, r := range rs {
		if f(r) {
			n++
		}
	}
	return n
}
