// Package configs embeds what ships with the binary: the condition packs with their tests. It owns files, no
// behaviour; what it returns is read-only and safe for concurrent use.
package configs

import (
	"embed"
	"io/fs"
)

//go:embed conditions/*.yaml
var conditions embed.FS

//go:embed mappings/*.yaml
var mappings embed.FS

//go:embed devices/*.yaml devices/guides/*.yaml
var devices embed.FS

// Conditions is the folder of condition packs (see docs/rules.md) and their unit tests.
func Conditions() fs.FS {
	sub, err := fs.Sub(conditions, "conditions")
	if err != nil {
		panic(err) // the name is a constant and valid
	}
	return sub
}

// Mappings is the folder of the shipped payload mappings (see docs/routes.md).
func Mappings() fs.FS {
	sub, err := fs.Sub(mappings, "mappings")
	if err != nil {
		panic(err) // the name is a constant and valid
	}
	return sub
}

// Devices is the catalogue of device models, with the generic guides in guides (see docs/devices.md).
func Devices() fs.FS {
	sub, err := fs.Sub(devices, "devices")
	if err != nil {
		panic(err) // the name is a constant and valid
	}
	return sub
}
