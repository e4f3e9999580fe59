package mqttd

import "time"

// Tests ask what survives a crash: on a busy machine too, yes is said only when it does.
func init() { promiseTimeout = time.Minute }
