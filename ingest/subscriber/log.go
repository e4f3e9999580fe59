package subscriber

import (
	"fmt"
	"strings"
	"sync/atomic"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/rs/zerolog"
)

// pahoLog is where the library's messages go. Its loggers are package variables, which clients read while they run, so
// they are set before any client can be and look here.
var pahoLog atomic.Pointer[zerolog.Logger]

func init() {
	mqtt.CRITICAL = pahoLogger(zerolog.ErrorLevel)
	// What ends a connection reaches us as an error and is logged there, once; here it is a detail. The library's own
	// DEBUG stays off: it is far too much, and prints packets.
	mqtt.ERROR = pahoLogger(zerolog.DebugLevel)
	mqtt.WARN = pahoLogger(zerolog.DebugLevel)
}

func logTo(l zerolog.Logger) {
	l = l.With().Str("library", "paho").Logger()
	pahoLog.Store(&l)
}

type pahoLogger zerolog.Level

func (p pahoLogger) Println(v ...any) { p.print(strings.TrimSpace(fmt.Sprintln(v...))) }

func (p pahoLogger) Printf(format string, v ...any) { p.print(fmt.Sprintf(format, v...)) }

func (p pahoLogger) print(text string) {
	if l := pahoLog.Load(); l != nil {
		l.WithLevel(zerolog.Level(p)).Msg(text)
	}
}
