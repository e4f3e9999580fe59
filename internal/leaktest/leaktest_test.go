package leaktest

import (
	"testing"
	"time"
)

func TestFind(t *testing.T) {
	if err := find(time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	go func() { <-stop }()
	if find(0, nil) == nil {
		t.Error("a goroutine that stays was not found")
	}
	time.AfterFunc(600*time.Millisecond, func() { close(stop) }) // more than goleak itself waits
	None(t)
}
