package ingest_test

import (
	"fmt"
	"testing"
	"time"

	"vitalwatch/ingest"
	"vitalwatch/vitals"
)

// BenchmarkBatch_Add is decoding and judging alone: 100 messages of one reading each, nothing journaled.
func BenchmarkBatch_Add(b *testing.B) {
	h := newHouse(b, false)
	var messages []ingest.Message
	for i := range 100 {
		messages = append(messages, ingest.Message{Device: "D-1", Format: "readings", Source: "mqtt", ReceivedAt: vitals.At(h.now),
			Payload: fmt.Appendf(nil, `{"indicator":"heart_rate","taken_at":%q,"value":%d,"unit":"/min"}`, h.now.Add(-time.Duration(i)*time.Second).Format(time.RFC3339), 60+i%40)})
	}
	batch := h.NewBatch()
	b.ReportAllocs()
	for b.Loop() {
		for i := range messages {
			batch.Add(messages[i])
		}
		batch.Reset()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(messages)), "ns/reading")
}
