package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"vitalwatch/configs"
	"vitalwatch/devices/payload"
	"vitalwatch/devices/routes"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/vitals"
)

// loadMappings reads the shipped mappings and the operator's own over them. The error lists every mistake with its
// place.
func loadMappings(cfg *Config) ([]*payload.Mapping, error) {
	folders := []payload.MappingFolder{{Name: "embedded", FS: configs.Mappings()}}
	for _, d := range cfg.Mappings.Dirs {
		folders = append(folders, payload.MappingFolder{Name: filepath.Clean(d), FS: os.DirFS(d)})
	}
	return payload.LoadMappings(folders...)
}

// checkRoutes finds what is wrong with mappings.dirs and routes. Mistakes within the mappings have places of their own
// and are told by loadMappings; routes are then judged without them.
func (c *Config) checkRoutes(at func(path, format string, args ...any)) {
	for i, dir := range c.Mappings.Dirs {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			at("mappings.dirs."+strconv.Itoa(i), "%s is not a folder that can be read", dir)
			return
		}
	}
	ms, err := loadMappings(c)
	if err != nil {
		return
	}
	if _, err = routes.New(c.Routes, ms); err == nil {
		return
	}
	for _, e := range flatten(err) {
		var r *routes.Error
		if !errors.As(e, &r) {
			at("routes", "%v", e)
			continue
		}
		path := "routes." + strconv.Itoa(r.Route)
		if r.Key != "" {
			path += "." + r.Key
		}
		at(path, "%s", r.Message)
	}
}

// openRoutes puts the configured formats in use and the routes beside them.
func (a *App) openRoutes(context.Context) error {
	ms, err := loadMappings(a.cfg)
	if err != nil {
		return err
	}
	if err := payload.UseMappings(ms); err != nil {
		return err
	}
	table, err := routes.New(a.cfg.Routes, ms)
	if err != nil {
		return err
	}
	a.topics = &routes.Topics{Table: table, MaySpeakFor: func(gateway, device vitals.DeviceID) bool {
		return a.devices.MaySpeakFor(gateway, device)
	}}
	return nil
}

// doorTopics tells the front door in its own words what a topic means.
type doorTopics struct{ t *routes.Topics }

func (x doorTopics) Resolve(client vitals.DeviceID, topic []byte) (vitals.DeviceID, string, error) {
	id, format, err := x.t.Resolve(client, topic)
	switch {
	case errors.Is(err, routes.ErrForeign):
		err = mqttd.ErrForeignTopic
	case errors.Is(err, routes.ErrUnknown):
		err = mqttd.ErrUnknownTopic
	}
	return id, format, err
}
