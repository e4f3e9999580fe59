package payload

// HalfDecimal shows what a float of 16 bits becomes.
func HalfDecimal(h uint16) string { return string(appendHalf(nil, h)) }
