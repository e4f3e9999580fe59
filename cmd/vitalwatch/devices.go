package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"vitalwatch/configs"
	"vitalwatch/devices"
	"vitalwatch/devices/authority"
	"vitalwatch/devices/catalogue"
	"vitalwatch/devices/claimqr"
	"vitalwatch/storage"
	"vitalwatch/vitals"
	"vitalwatch/web"
)

// DevicesConfig is the devices part of the configuration.
type DevicesConfig struct {
	Dirs []string `yaml:"dirs"` // own device models and guides, over the embedded ones
}

func (c *Config) authorityPath() string { return filepath.Join(c.DataDir, "authority") }

func (c *Config) checkDevices(at func(path, format string, args ...any)) {
	for i, dir := range c.Devices.Dirs {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			at("devices.dirs."+strconv.Itoa(i), "%s is not a folder that can be read", dir)
		}
	}
}

// loadModels reads the embedded catalogue and the operator's own over it.
func loadModels(cfg *Config) (*catalogue.Catalogue, error) {
	folders := []catalogue.FS{{Name: "embedded", FS: configs.Devices()}}
	for _, dir := range cfg.Devices.Dirs {
		folders = append(folders, catalogue.FS{Name: filepath.Clean(dir), FS: os.DirFS(dir)})
	}
	return catalogue.Load(folders...)
}

// openIdentity gives the registry what proves who a device is. Before anybody asks.
func (a *App) openIdentity() (err error) {
	if a.models, err = loadModels(a.cfg); err != nil {
		return err
	}
	if a.devices.Authority, err = authority.Open(a.cfg.authorityPath()); err != nil {
		return err
	}
	if end := a.devices.Authority.NotAfter(); time.Until(end) < 2*authority.CertificateLife {
		a.log.Warn().Time("not_after", end).Msg("the certificate authority of the devices ends soon: devices need new certificates from a new one, see docs/devices.md")
	}
	a.devices.OpenRegistration = a.cfg.Registration == "open"
	return nil
}

// endSessions ends the live session of every device of which a credential has ended.
func (a *App) endSessions(id vitals.DeviceID) {
	a.door.DisconnectDevice(id, "the credential has ended or the device was disabled; log in anew")
}

// weightsWait bounds one look at what a person weighed lately; a reading waits for it.
const weightsWait = 500 * time.Millisecond

// weighed reads a person's weights since an instant.
func (a *App) weighed(p vitals.PatientID, from vitals.Micros) (out []vitals.Reading, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), weightsWait)
	defer cancel()
	for r, err := range a.store.Range(ctx, storage.Query{Patient: p, Indicator: vitals.Weight, From: from, Newest: true, Limit: 500}) {
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// explainError finds the class of an error code in the catalogue.
func (a *App) explainError(model string, i vitals.Indicator, code string) (class string, known bool) {
	e, known := a.models.Explain(model, i.String(), code)
	return e.Class, known
}

// deviceDeps is what the API shows of devices.
func (a *App) deviceDeps() web.DeviceDeps {
	return web.DeviceDeps{Devices: a.devices, Models: a.models, Waiting: a.pipeline, Reweigh: a.weights.Forget}
}

// openAuthority gives the registry of a verb the installation's authority.
func (f *registryFlags) openAuthority(things *devices.Registry) error {
	cfg, err := LoadConfig(f.Config, os.LookupEnv)
	if err == nil {
		things.Authority, err = authority.Open(cfg.authorityPath())
	}
	return err
}

// DeviceSetCmd changes a device's record.
type DeviceSetCmd struct {
	registryFlags
	ID     string  `arg:"" help:"Device id."`
	Model  *string `placeholder:"M" help:"New model, as it stands on the device."`
	Serial *string `placeholder:"S" help:"New serial number."`
	TZ     *string `name:"tz" placeholder:"ZONE" help:"New zone of the device's own clock; empty for the patient's."`
}

// Run changes it.
func (c *DeviceSetCmd) Run(k *kong.Context) error {
	ctx := context.Background()
	_, things, close, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer close()
	if c.Model == nil && c.Serial == nil && c.TZ == nil {
		return misused("say what changes: --model, --serial or --tz")
	}
	if err := things.Set(ctx, vitals.DeviceID(c.ID), devices.Change{Model: c.Model, Serial: c.Serial, TZ: c.TZ}); err != nil {
		return err
	}
	fmt.Fprintf(k.Stderr, "device %s changed\n", c.ID)
	return nil
}

// DeviceStatusCmd shows how a device is and was.
type DeviceStatusCmd struct {
	registryFlags
	ID     string    `arg:"" help:"Device id."`
	From   time.Time `placeholder:"T" help:"Changes from then on (RFC 3339)."`
	To     time.Time `placeholder:"T" help:"Changes before then (RFC 3339)."`
	Limit  int       `default:"50" help:"The newest so many."`
	Output string    `enum:"table,json" default:"table" help:"table or json."`
}

// Run shows it, newest first; beside a running server the last seconds may be missing.
func (c *DeviceStatusCmd) Run(k *kong.Context) error {
	ctx := context.Background()
	_, things, close, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer close()
	if c.Limit < 1 {
		return misused("--limit must be at least 1")
	}
	changes, err := things.StatusHistory(ctx, vitals.DeviceID(c.ID), micros(c.From), micros(c.To), 0, c.Limit)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		type item struct {
			At       string `json:"at"`
			State    string `json:"state"`
			Battery  *int8  `json:"battery,omitempty"`
			Firmware string `json:"firmware,omitempty"`
		}
		return writeArray(k.Stdout, func(yield func(any) bool) {
			for _, x := range changes {
				it := item{At: instant(x.At), State: x.State, Firmware: x.Firmware}
				if x.Battery >= 0 {
					it.Battery = &x.Battery
				}
				if !yield(it) {
					return
				}
			}
		})
	}
	w := tabwriter.NewWriter(k.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "AT\tSTATE\tBATTERY\tFIRMWARE")
	for _, x := range changes {
		battery := "-"
		if x.Battery >= 0 {
			battery = fmt.Sprintf("%d %%", x.Battery)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", instant(x.At), x.State, battery, dash(x.Firmware))
	}
	return w.Flush()
}

// DeviceClaimCodeCmd makes a claim code.
type DeviceClaimCodeCmd struct {
	registryFlags
	ID     string        `arg:"" help:"Device id."`
	Valid  time.Duration `default:"24h" help:"How long the code works, 1m to 720h."`
	QR     string        `name:"qr" type:"path" placeholder:"FILE" help:"Write the code as a QR picture (PNG) to a file."`
	Server string        `placeholder:"URL" help:"Address of the API that the picture names, such as https://desk.example."`
}

// Run prints it.
func (c *DeviceClaimCodeCmd) Run(k *kong.Context) error {
	ctx := context.Background()
	_, things, close, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer close()
	if err := c.openAuthority(things); err != nil {
		return err
	}
	code, expires, err := things.NewClaim(ctx, vitals.DeviceID(c.ID), c.Valid, "command line")
	if err != nil {
		return err
	}
	code = devices.FormatCode(code)
	if c.QR != "" {
		png, err := claimqr.PNG(claimqr.Text(code, vitals.DeviceID(c.ID), c.Server))
		if err != nil {
			return err
		}
		if err := os.WriteFile(c.QR, png, 0o600); err != nil {
			return fmt.Errorf("write the picture: %w; the code itself is made, make another one", err)
		}
	}
	fmt.Fprintf(k.Stderr, "device %s gives itself a credential with the code that follows, once, until %s; what it had before ends then\n", c.ID, instant(expires))
	_, err = fmt.Fprintln(k.Stdout, code)
	return err
}

// DeviceRevokeCmd ends credentials.
type DeviceRevokeCmd struct {
	registryFlags
	ID     string `arg:"" help:"Device id."`
	Serial string `placeholder:"HEX" help:"Only this certificate; else every secret and certificate."`
}

// Run ends them.
func (c *DeviceRevokeCmd) Run(k *kong.Context) error {
	ctx := context.Background()
	_, things, close, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer close()
	if c.Serial != "" {
		err = things.RevokeCertificate(ctx, vitals.DeviceID(c.ID), c.Serial)
	} else {
		err = things.Revoke(ctx, vitals.DeviceID(c.ID))
	}
	if err == nil {
		fmt.Fprintf(k.Stderr, "device %s: revoked; its session ends\n", c.ID)
	}
	return err
}

// DeviceAssignCmd lets a gateway speak for a device.
type DeviceAssignCmd struct {
	registryFlags
	Gateway string `arg:"" help:"Device id of the gateway."`
	Device  string `arg:"" help:"Device id."`
}

// Run assigns it.
func (c *DeviceAssignCmd) Run(k *kong.Context) error {
	return c.each(k, "speaks", (*devices.Registry).Assign)
}

// DeviceUnassignCmd ends it.
type DeviceUnassignCmd struct{ DeviceAssignCmd }

// Run ends it.
func (c *DeviceUnassignCmd) Run(k *kong.Context) error {
	return c.each(k, "no longer speaks", (*devices.Registry).Unassign)
}

func (c *DeviceAssignCmd) each(k *kong.Context, does string, f func(*devices.Registry, context.Context, vitals.DeviceID, vitals.DeviceID) error) error {
	ctx := context.Background()
	_, things, close, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer close()
	if err := f(things, ctx, vitals.DeviceID(c.Gateway), vitals.DeviceID(c.Device)); err != nil {
		return err
	}
	fmt.Fprintf(k.Stderr, "gateway %s %s for device %s\n", c.Gateway, does, c.Device)
	return nil
}

// DeviceShowCmd shows one device.
type DeviceShowCmd struct {
	registryFlags
	ID string `arg:"" help:"Device id."`
}

// Run shows it.
func (c *DeviceShowCmd) Run(k *kong.Context) error {
	_, things, close, err := c.open(context.Background())
	if err != nil {
		return err
	}
	defer close()
	h := things.Find(vitals.DeviceID(c.ID))
	if h == nil {
		return fmt.Errorf("%w: %s; see: vitalwatch device list", devices.ErrNotFound, c.ID)
	}
	d := h.Device()
	w := tabwriter.NewWriter(k.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "id\t%s\nmodel\t%s\nserial\t%s\nzone\t%s\nadded\t%s\nstate\t%s\nfirmware\t%s\nlast seen\t%s\n", d.ID, dash(d.Model), dash(d.Serial), dash(d.TZ),
		instant(d.CreatedAt), dash(strings.TrimSpace(d.Status.State+" "+instant(d.Status.At))), dash(d.Status.Firmware), dash(instant(d.LastSeen)))
	if d.Status.Battery >= 0 {
		fmt.Fprintf(w, "battery\t%d %%\n", d.Status.Battery)
	}
	if d.Disabled {
		fmt.Fprintln(w, "disabled\tyes")
	}
	for _, b := range h.Bindings() {
		fmt.Fprintf(w, "measures for\t%s%s, from %s to %s\n", b.Patient, slotText(b.UserSlot), cmp.Or(instant(b.From), "the beginning"), cmp.Or(instant(b.To), "now"))
	}
	for _, g := range h.Gateways() {
		fmt.Fprintf(w, "gateway\t%s, from %s to %s\n", g.Gateway, instant(g.From), cmp.Or(instant(g.To), "now"))
	}
	for _, x := range h.Credentials(vitals.At(time.Now())) {
		what := x.Kind
		if x.Serial != "" {
			what += " " + x.Serial
		}
		switch {
		case x.Ended:
			what += ", ended"
		case x.EndsAt != 0:
			what += ", until " + instant(x.EndsAt)
		}
		fmt.Fprintf(w, "credential\t%s\n", what)
	}
	return w.Flush()
}

// DeviceCACmd prints the authority's certificate.
type DeviceCACmd struct{ registryFlags }

// Run prints it.
func (c *DeviceCACmd) Run(k *kong.Context) error {
	cfg, err := LoadConfig(c.Config, os.LookupEnv)
	if err != nil {
		return err
	}
	a, err := authority.Open(cfg.authorityPath())
	if err != nil {
		return err
	}
	_, err = k.Stdout.Write(a.CertificatePEM())
	return err
}

// DeviceModelsCmd lists the catalogue.
type DeviceModelsCmd struct {
	registryFlags
	Output string `enum:"table,json" default:"table" help:"table or json; json has everything."`
}

// Run lists it.
func (c *DeviceModelsCmd) Run(k *kong.Context) error {
	cfg, err := LoadConfig(c.Config, os.LookupEnv)
	if err != nil {
		return err
	}
	models, err := loadModels(cfg)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		e := json.NewEncoder(k.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(models.Models())
	}
	w := tabwriter.NewWriter(k.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tKIND\tMEASURES\tFORMATS\tNAME")
	for _, m := range models.Models() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.ID, m.Kind, strings.Join(m.Indicators, ","), dash(strings.Join(m.Formats, ",")), m.Name["en"])
	}
	return w.Flush()
}
