package evidence_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"vitalwatch/ingest/evidence"
	"vitalwatch/vitals"
)

func drawEntry(t *rapid.T, first uint64) evidence.Entry {
	e := evidence.Entry{Kind: rapid.SampledFrom([]evidence.Kind{evidence.Whole, evidence.Whole, evidence.Whole, evidence.Cut, evidence.Erased}).Draw(t, "kind"),
		First: first, Sum: rapid.Uint32().Draw(t, "sum")}
	text := rapid.StringN(0, 6, 12)
	n := rapid.IntRange(1, 20).Draw(t, "readings")
	e.Count = n
	if e.Kind == evidence.Erased {
		return e
	}
	if e.Kind == evidence.Whole && n > 1 && rapid.Bool().Draw(t, "duplicates") {
		e.Fresh = make([]bool, n)
		e.Fresh[rapid.IntRange(0, n-1).Draw(t, "new")], e.Count = true, 1
	}
	m := &e.Message
	m.ReceivedAt = vitals.Micros(rapid.Int64().Draw(t, "received"))
	m.JudgedAt = m.ReceivedAt
	if rapid.Bool().Draw(t, "replayed") {
		m.JudgedAt = vitals.Micros(rapid.Int64().Draw(t, "judged"))
	}
	m.Device = vitals.DeviceID(text.Draw(t, "device"))
	m.Format, m.Source = "readings", "mqtt"
	if rapid.Bool().Draw(t, "unusual") {
		m.Gateway, m.Topic, m.Format = vitals.DeviceID(text.Draw(t, "gateway")), text.Draw(t, "topic"), text.Draw(t, "format")
		m.Source, m.Zone = text.Draw(t, "source"), text.Draw(t, "zone")
	}
	if rapid.Bool().Draw(t, "clock") {
		micros := rapid.Custom(func(t *rapid.T) vitals.Micros { return vitals.Micros(rapid.Int64().Draw(t, "micros")) })
		m.Clock = evidence.Clock{Offset: micros.Draw(t, "offset"), From: micros.Draw(t, "from"), To: micros.Draw(t, "to"), Doubtful: rapid.Bool().Draw(t, "doubtful")}
	}
	if rapid.Bool().Draw(t, "listed") {
		at := 0
		for i := range n {
			at += rapid.IntRange(min(i, 1), 9).Draw(t, "step")
			m.Items = append(m.Items, at)
		}
	}
	for left := n; left > 0; {
		k := rapid.IntRange(1, left).Draw(t, "run")
		m.Patients = append(m.Patients, evidence.Run{N: k, Patient: vitals.PatientID(text.Draw(t, "patient"))})
		left -= k
	}
	m.Payload = []byte(rapid.StringN(0, 40, 200).Draw(t, "payload"))
	return e
}

func TestBlock_gives_back_what_was_put_in(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want []evidence.Entry
		var h evidence.Header
		var body []byte
		base := rapid.Uint64Range(1, math.MaxUint64>>1).Draw(t, "base")
		next := base
		for range rapid.IntRange(1, 10).Draw(t, "entries") {
			e := drawEntry(t, next)
			next += uint64(e.Count) + rapid.Uint64Range(0, 3).Draw(t, "gap")
			want = append(want, e)
			body = e.Append(body, base)
			h.Entries++
			h.Last, h.Newest = e.First+uint64(e.Count)-1, max(h.Newest, e.ReceivedAt)
		}
		key := []byte("key")
		block := evidence.AppendBlock([]byte("before"), key, h, body, rapid.Bool().Draw(t, "dense"))[len("before"):]
		h.Raw = len(body)
		if got, err := evidence.ParseHeader(block); err != nil || got != h {
			t.Fatalf("header: got %+v, %v, want %+v", got, err, h)
		}
		var d evidence.Decoder
		i := 0
		err := d.Block(key, base, block, func(e *evidence.Entry) error {
			got := *e
			if len(got.Payload) == 0 && len(want[i].Payload) == 0 {
				got.Payload = want[i].Payload
			}
			if !reflect.DeepEqual(got, want[i]) {
				t.Fatalf("entry %d:\n got %+v\nwant %+v", i, got, want[i])
			}
			i++
			return nil
		})
		if err != nil || i != len(want) {
			t.Fatalf("%d of %d entries, %v", i, len(want), err)
		}
		at := rapid.IntRange(0, len(block)-1).Draw(t, "flipped")
		block[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if err := d.Block(key, base, block, func(*evidence.Entry) error { return nil }); !errors.Is(err, evidence.ErrDamaged) {
			t.Fatalf("byte %d flipped: got %v, want ErrDamaged", at, err)
		}
		block = evidence.AppendBlock(nil, key, h, body, false)
		if err := d.Block([]byte("other key"), base, block, func(*evidence.Entry) error { return nil }); !errors.Is(err, evidence.ErrDamaged) {
			t.Fatalf("under another key: got %v, want ErrDamaged", err)
		}
	})
}

// FuzzBlock gives the decoder bodies that nobody wrote: it answers with an error, or with what encodes to the same
// again.
func FuzzBlock(f *testing.F) {
	e := evidence.Entry{First: 7, Count: 2, Message: evidence.Message{Device: "d", Format: "gatt", Source: "http", Zone: "Asia/Shanghai", Items: []int{0, 2},
		Patients: []evidence.Run{{N: 1, Patient: "a"}, {N: 1, Patient: "b"}}, ReceivedAt: 5, JudgedAt: 9, Payload: []byte(`[{"a":1}]`)}}
	f.Add(e.Append(nil, 7), 1, uint64(8))
	usual := evidence.Entry{First: 7, Count: 1, Fresh: []bool{false, true}, Message: evidence.Message{Device: "d", Format: "readings", Source: "mqtt",
		Patients: []evidence.Run{{N: 2, Patient: "a"}}, Payload: []byte(`[{"a":1}]`)}}
	f.Add(usual.Append(nil, 7), 1, uint64(7))
	f.Fuzz(func(t *testing.T, body []byte, entries int, last uint64) {
		if entries < 0 || entries > len(body) {
			return
		}
		key := []byte("k")
		block := evidence.AppendBlock(nil, key, evidence.Header{Entries: entries, Last: last}, body, false)
		var d evidence.Decoder
		var again []byte
		if err := d.Block(key, 7, block, func(e *evidence.Entry) error { again = e.Append(again, 7); return nil }); err != nil {
			if !errors.Is(err, evidence.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		block = evidence.AppendBlock(nil, key, evidence.Header{Entries: entries, Last: last}, again, false)
		var third []byte
		if err := d.Block(key, 7, block, func(e *evidence.Entry) error { third = e.Append(third, 7); return nil }); err != nil || !bytes.Equal(again, third) {
			t.Fatalf("encoded again it is %x, then %x, %v", again, third, err)
		}
		if _, err := evidence.ParseHeader(body); err != nil && !errors.Is(err, evidence.ErrDamaged) {
			t.Fatal(err)
		}
	})
}
