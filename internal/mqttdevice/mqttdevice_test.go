package mqttdevice_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"vitalwatch/internal/fakebroker"
	"vitalwatch/internal/freeport"
	"vitalwatch/internal/mqttdevice"
)

func payloads(n int) (out [][]byte) {
	for i := range n {
		out = append(out, fmt.Appendf(nil, "%d", i))
	}
	return out
}

func TestDevice_sendsAgainWhatHadNoPuback(t *testing.T) {
	var mu sync.Mutex
	seen := 0
	acked := map[string]bool{}
	b := fakebroker.Start(t, fakebroker.Config{OnPublish: func(m fakebroker.Message, _ func(string, []byte)) fakebroker.Verdict {
		mu.Lock()
		defer mu.Unlock()
		if seen++; seen == 7 || seen == 20 {
			return fakebroker.Drop
		}
		acked[string(m.Payload)] = true
		return fakebroker.Ack
	}})
	d := mqttdevice.New(mqttdevice.Config{Broker: b.URL(), ID: "dev-1", Window: 4})
	defer d.Close()
	var order []int
	if err := d.Send(t.Context(), payloads(40), func(i int) { order = append(order, i) }); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(acked) != 40 || len(order) != 40 || seen <= 41 {
		t.Errorf("the broker acknowledged %d of 40, the device counted %d, %d sendings", len(acked), len(order), seen)
	}
	for i, x := range order {
		if i != x {
			t.Fatalf("acknowledged out of order: %v", order)
		}
	}
}

func TestDevice_hearsRefusals(t *testing.T) {
	b := fakebroker.Start(t, fakebroker.Config{OnPublish: func(_ fakebroker.Message, reply func(string, []byte)) fakebroker.Verdict {
		reply("vw/v1/dev-1/down/errors", []byte(`{"at":"2026-11-21T00:00:00Z","problem":"unit_unknown","detail":"x","index":3}`))
		return fakebroker.Ack
	}})
	heard := make(chan mqttdevice.Refusal, 1)
	d := mqttdevice.New(mqttdevice.Config{Broker: b.URL(), ID: "dev-1", OnError: func(r mqttdevice.Refusal) { heard <- r }})
	defer d.Close()
	if err := d.Send(t.Context(), payloads(1), nil); err != nil {
		t.Fatal(err)
	}
	if r := <-heard; r.Problem != "unit_unknown" || r.Index != 3 {
		t.Errorf("got %+v", r)
	}
}

func TestDevice_password(t *testing.T) {
	b := fakebroker.Start(t, fakebroker.Config{Password: func(u string) (string, bool) { return "s3", u == "dev-1" }})
	good := mqttdevice.New(mqttdevice.Config{Broker: b.URL(), ID: "dev-1", Password: "s3"})
	defer good.Close()
	if err := good.Send(t.Context(), payloads(1), nil); err != nil {
		t.Errorf("right password: %v", err)
	}
	bad := mqttdevice.New(mqttdevice.Config{Broker: b.URL(), ID: "dev-1", Password: "wrong"})
	defer bad.Close()
	if err := bad.Send(t.Context(), payloads(1), nil); !errors.Is(err, mqttdevice.ErrRefused) {
		t.Errorf("wrong password: %v", err)
	}
}

func TestDevice_givesUp(t *testing.T) {
	nobody, err := freeport.Loopback()
	if err != nil {
		t.Fatal(err)
	}
	d := mqttdevice.New(mqttdevice.Config{Broker: "tcp://" + nobody, ID: "dev-1", GiveUp: 50 * time.Millisecond})
	if err := d.Send(t.Context(), payloads(1), nil); err == nil {
		t.Error("nobody listens there, but Send succeeded")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d = mqttdevice.New(mqttdevice.Config{Broker: "tcp://" + nobody, ID: "dev-1"})
	if err := d.Send(ctx, payloads(1), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
