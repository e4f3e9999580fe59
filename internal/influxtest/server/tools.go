//go:build tools

// Package server names the program that the tests talk to, in a module of its own: nothing of it is part of the product.
package server

import _ "github.com/influxdata/influxdb/cmd/influxd"
