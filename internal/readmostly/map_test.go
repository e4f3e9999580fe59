package readmostly_test

import (
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"vitalwatch/internal/readmostly"
)

func TestMap_EqualsPlainMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m readmostly.Map[string, int]
		model := map[string]int{}
		key := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint(rapid.IntRange(0, 300).Draw(t, "k")) })
		for range rapid.IntRange(0, 600).Draw(t, "n") {
			k := key.Draw(t, "key")
			switch rapid.IntRange(0, 9).Draw(t, "op") {
			case 0:
				for range 400 { // enough to make the map promote for its readers
					m.Get("none")
				}
			case 1, 2, 3, 4, 5:
				v := rapid.Int().Draw(t, "v")
				m.Put(k, v)
				model[k] = v
			}
			got, ok := m.Get(k)
			want, wantOK := model[k]
			if got != want || ok != wantOK {
				t.Fatalf("Get(%s) = %d, %v, want %d, %v", k, got, ok, want, wantOK)
			}
		}
	})
}

// A key that was put before a reader started is never missed while promotions run.
func TestMap_KeysNeverVanishDuringPromotion(t *testing.T) {
	var m readmostly.Map[int, int]
	const n = 5000
	var put [n]chan struct{}
	for i := range put {
		put[i] = make(chan struct{})
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for i := range n {
				<-put[i]
				for _, k := range []int{i, i / 2, 0} {
					if v, ok := m.Get(k); !ok || v != k {
						t.Errorf("Get(%d) = %d, %v after it was put", k, v, ok)
						return
					}
				}
			}
		})
	}
	for i := range n {
		m.Put(i, i)
		close(put[i])
	}
	wg.Wait()
}

// go test -bench Get ./internal/readmostly
func BenchmarkMap_Get(b *testing.B) {
	var m readmostly.Map[string, *int]
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = fmt.Sprintf("dev-%06d", i)
		m.Put(keys[i], new(int))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok := m.Get(keys[i%len(keys)]); !ok {
			b.Fatal("missing")
		}
		i++
	}
}
