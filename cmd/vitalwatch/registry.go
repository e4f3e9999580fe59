package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/vitals"
)

// PatientCmd administers patients, beside a running server too: a server beside it sees the change when the verb is back.
type PatientCmd struct {
	Add  PatientAddCmd  `cmd:"" help:"Add a patient."`
	List PatientListCmd `cmd:"" help:"List patients in order of id."`
	Show PatientShowCmd `cmd:"" help:"Show one patient with the devices that measure for them."`
	Set  PatientSetCmd  `cmd:"" help:"Change a patient; what is not named stays."`

	Export PatientExportCmd `cmd:"" help:"Write one patient's readings to stdout."`
	Erase  PatientEraseCmd  `cmd:"" help:"Remove one patient's readings, messages and notes for ever."`
}

// DeviceCmd administers devices, beside a running server too.
type DeviceCmd struct {
	Add     DeviceAddCmd     `cmd:"" help:"Add a device; prints its secret, once, alone on stdout."`
	List    DeviceListCmd    `cmd:"" help:"List devices in order of id."`
	Bind    DeviceBindCmd    `cmd:"" help:"Make a device measure for a patient from now on; old readings stay with their old owner."`
	Unbind  DeviceUnbindCmd  `cmd:"" help:"End a binding; later readings are nobody's and are quarantined."`
	Rotate  DeviceRotateCmd  `cmd:"" help:"Give a device a new secret; prints it, once, alone on stdout."`
	Disable DeviceDisableCmd `cmd:"" help:"Cut a device off."`
	Enable  DeviceEnableCmd  `cmd:"" help:"Let a disabled device in again."`

	Show      DeviceShowCmd      `cmd:"" help:"Show one device with its bindings, gateways and credentials."`
	Set       DeviceSetCmd       `cmd:"" help:"Change a device's model, serial number or zone; what is not named stays."`
	Status    DeviceStatusCmd    `cmd:"" help:"Show how a device was, newest first."`
	ClaimCode DeviceClaimCodeCmd `cmd:"" help:"Make a one-time code with which a device gives itself a credential; prints it alone on stdout."`
	Revoke    DeviceRevokeCmd    `cmd:"" help:"End every credential of a device, or one certificate, now."`
	Assign    DeviceAssignCmd    `cmd:"" help:"Let a gateway speak for a device."`
	Unassign  DeviceUnassignCmd  `cmd:"" help:"End that a gateway speaks for a device."`
	CA        DeviceCACmd        `cmd:"" name:"ca" help:"Print the certificate of the authority that signs devices' certificates."`
	Models    DeviceModelsCmd    `cmd:"" help:"List the device models that are known."`

	Send     DeviceSendCmd     `cmd:"" help:"Send a command to a device: measure again, remind, show a message."`
	Commands DeviceCommandsCmd `cmd:"" help:"List what was sent to a device, and what has become of it."`
	Config   DeviceConfigCmd   `cmd:"" help:"Show or set the configuration that a device gets on down/config."`
}

// registryFlags are common to all of these verbs.
type registryFlags struct {
	Config string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file of the server whose data folder is meant."`
}

// open gives both registries; close must be called.
func (f *registryFlags) open(ctx context.Context) (people *care.Registry, things *devices.Registry, close func(), err error) {
	return f.openState(ctx, false)
}

// openToAdd is open for the verbs that may be the first of all.
func (f *registryFlags) openToAdd(ctx context.Context) (people *care.Registry, things *devices.Registry, close func(), err error) {
	return f.openState(ctx, true)
}

func (f *registryFlags) openState(ctx context.Context, adds bool) (people *care.Registry, things *devices.Registry, close func(), err error) {
	db, err := openState(f.Config, adds)
	if err != nil {
		return nil, nil, nil, err
	}
	close = func() { db.Close() }
	if people, err = care.Open(ctx, db); err == nil {
		things, err = devices.Open(ctx, db, people)
	}
	if err != nil {
		close()
		return nil, nil, nil, err
	}
	return people, things, close, nil
}

// checkConditions makes writes refuse conditions that no pack defines; the packs are read only when it matters.
func (f *registryFlags) checkConditions(people *care.Registry, conditions []string) error {
	if len(conditions) == 0 {
		return nil
	}
	names, err := conditionNames(f.Config)
	if err != nil {
		return err
	}
	people.CheckConditions(func() []string { return names })
	return nil
}

// PatientAddCmd adds a patient.
type PatientAddCmd struct {
	registryFlags
	ID        string   `arg:"" help:"1 to 64 of A-Z a-z 0-9 _ -; a pseudonym, never a name or number of the person."`
	Name      string   `help:"The person's name, shown to their own team only."`
	Condition []string `placeholder:"C" help:"Condition pack that applies, such as hypertension; may be repeated."`
	TZ        string   `name:"tz" placeholder:"ZONE" help:"IANA zone, such as Asia/Shanghai."`
	Language  string   `placeholder:"TAG" help:"Language of texts to the person, such as zh-CN."`
	Team      []string `placeholder:"T" help:"Team that looks after the person; made when it does not exist; may be repeated."`
}

// Run adds it.
func (c *PatientAddCmd) Run(k *kong.Context) error {
	ctx := context.Background()
	people, _, close, err := c.openToAdd(ctx)
	if err != nil {
		return err
	}
	defer close()
	if err := c.checkConditions(people, c.Condition); err != nil {
		return err
	}
	_, err = people.Add(ctx, care.Patient{ID: vitals.PatientID(c.ID), Name: c.Name, Conditions: c.Condition, TZ: c.TZ, Language: c.Language, Teams: c.Team})
	if errors.Is(err, care.ErrExists) {
		return fmt.Errorf("%w; change it with: vitalwatch patient set %s", err, c.ID)
	}
	if err == nil {
		fmt.Fprintf(k.Stderr, "patient %s added\n", c.ID)
	}
	return err
}

// PatientSetCmd changes a patient.
type PatientSetCmd struct {
	registryFlags
	ID           string   `arg:"" help:"Patient id."`
	Name         *string  `help:"New name."`
	Condition    []string `placeholder:"C" xor:"conditions" help:"Conditions in place of the present ones; may be repeated."`
	NoConditions bool     `xor:"conditions" help:"Take all conditions away."`
	TZ           *string  `name:"tz" placeholder:"ZONE" help:"New zone."`
	Language     *string  `placeholder:"TAG" help:"New language."`
	Team         []string `placeholder:"T" xor:"teams" help:"Teams in place of the present ones; may be repeated."`
	NoTeams      bool     `xor:"teams" help:"Take the person out of all teams."`
}

// Run changes it.
func (c *PatientSetCmd) Run(k *kong.Context) error {
	ctx := context.Background()
	people, _, close, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer close()
	if err := c.checkConditions(people, c.Condition); err != nil {
		return err
	}
	_, err = people.Update(ctx, vitals.PatientID(c.ID), func(p *care.Patient) error {
		set := func(to, from *string) {
			if from != nil {
				*to = *from
			}
		}
		set(&p.Name, c.Name)
		set(&p.TZ, c.TZ)
		set(&p.Language, c.Language)
		if len(c.Condition) > 0 || c.NoConditions {
			p.Conditions = c.Condition
		}
		if len(c.Team) > 0 || c.NoTeams {
			p.Teams = c.Team
		}
		return nil
	})
	if err == nil {
		fmt.Fprintf(k.Stderr, "patient %s changed\n", c.ID)
	}
	return err
}

// patientView is a patient in the output.
type patientView struct {
	ID         vitals.PatientID `json:"id"`
	Name       string           `json:"name"`
	Conditions []string         `json:"conditions"`
	Teams      []string         `json:"teams"`
	TZ         string           `json:"tz"`
	Language   string           `json:"language"`
	CreatedAt  string           `json:"created_at"`
	Devices    []bindingView    `json:"devices,omitempty"`
}

func viewPatient(p *care.Patient) patientView {
	return patientView{ID: p.ID, Name: p.Name, Conditions: notNil(p.Conditions), Teams: notNil(p.Teams), TZ: p.TZ,
		Language: p.Language, CreatedAt: instant(p.CreatedAt)}
}

// PatientListCmd lists patients.
type PatientListCmd struct {
	registryFlags
	Output string `enum:"table,json" default:"table" help:"table or json."`
}

// Run lists them.
func (c *PatientListCmd) Run(k *kong.Context) error {
	people, _, close, err := c.open(context.Background())
	if err != nil {
		return err
	}
	defer close()
	if c.Output == "json" {
		return writeArray(k.Stdout, func(yield func(any) bool) {
			for p := range people.All() {
				if !yield(viewPatient(p)) {
					return
				}
			}
		})
	}
	w := tabwriter.NewWriter(k.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tCONDITIONS\tTEAMS\tZONE\tADDED")
	for p := range people.All() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", p.ID, dash(p.Name), dash(strings.Join(p.Conditions, ",")), dash(strings.Join(p.Teams, ",")), dash(p.TZ), instant(p.CreatedAt))
	}
	return w.Flush()
}

// PatientShowCmd shows one patient.
type PatientShowCmd struct {
	registryFlags
	ID     string `arg:"" help:"Patient id."`
	Output string `enum:"text,json" default:"text" help:"text or json."`
}

// Run shows it.
func (c *PatientShowCmd) Run(k *kong.Context) error {
	people, things, close, err := c.open(context.Background())
	if err != nil {
		return err
	}
	defer close()
	p, ok := people.Find(vitals.PatientID(c.ID))
	if !ok {
		return fmt.Errorf("%w: %s; see: vitalwatch patient list", care.ErrNotFound, c.ID)
	}
	v := viewPatient(p)
	for h := range things.All() {
		for _, b := range h.Bindings() {
			if b.Patient == p.ID {
				v.Devices = append(v.Devices, viewBinding(h.ID(), b))
			}
		}
	}
	if c.Output == "json" {
		e := json.NewEncoder(k.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	w := tabwriter.NewWriter(k.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "id\t%s\nname\t%s\nconditions\t%s\nteams\t%s\nzone\t%s\nlanguage\t%s\nadded\t%s\n", v.ID, dash(v.Name),
		dash(strings.Join(v.Conditions, ", ")), dash(strings.Join(v.Teams, ", ")), dash(v.TZ), dash(v.Language), v.CreatedAt)
	for _, o := range p.Overrides {
		fmt.Fprintf(w, "threshold\t%s %s %g %s, by %s from %s to %s: %s\n", o.Rule, o.Severity, o.Value, o.Unit, o.By, instant(o.From), cmp.Or(instant(o.Until), "further notice"), o.Why)
	}
	for _, d := range v.Devices {
		fmt.Fprintf(w, "device\t%s%s, from %s to %s\n", d.Device, slotText(d.UserSlot), cmp.Or(d.From, "the beginning"), cmp.Or(d.To, "now"))
	}
	return w.Flush()
}

// DeviceAddCmd adds a device.
type DeviceAddCmd struct {
	registryFlags
	ID       string    `arg:"" help:"1 to 64 of A-Z a-z 0-9 _ -; it is the MQTT client id and user name."`
	Patient  string    `placeholder:"P" help:"Patient it measures for."`
	Model    string    `placeholder:"M" help:"Model."`
	Serial   string    `placeholder:"S" help:"Serial number."`
	TZ       string    `name:"tz" placeholder:"ZONE" help:"IANA zone of the device's own clock, for models that send local times; else the patient's."`
	Slot     uint8     `placeholder:"N" help:"User slot of the patient on a shared device; 0 for any."`
	From     time.Time `placeholder:"T" help:"When it began to measure for the patient (RFC 3339); else all it remembers is theirs."`
	NoSecret bool      `name:"no-secret" help:"No secret: for devices that log in at an external broker, or with open registration."`
}

// Run adds it.
func (c *DeviceAddCmd) Run(k *kong.Context) error {
	if c.Patient == "" && (c.Slot != 0 || !c.From.IsZero()) {
		return fmt.Errorf("--slot and --from say how the device is bound: name the person with --patient")
	}
	ctx := context.Background()
	_, things, close, err := c.openToAdd(ctx)
	if err != nil {
		return err
	}
	defer close()
	_, secret, err := things.Add(ctx, devices.New{ID: vitals.DeviceID(c.ID), Model: c.Model, Serial: c.Serial, TZ: c.TZ,
		Patient: vitals.PatientID(c.Patient), Slot: c.Slot, From: micros(c.From), NoSecret: c.NoSecret})
	if err != nil {
		return err
	}
	switch {
	case c.Patient == "":
		fmt.Fprintf(k.Stderr, "device %s added; bind it with: vitalwatch device bind %s --patient P (a gateway: vitalwatch device assign %s DEVICE)\n", c.ID, c.ID, c.ID)
	default:
		fmt.Fprintf(k.Stderr, "device %s added; it measures for %s\n", c.ID, c.Patient)
	}
	return printSecret(k, secret)
}

// printSecret puts a secret alone on stdout, so that a script can take it.
func printSecret(k *kong.Context, secret string) error {
	if secret == "" {
		return nil
	}
	fmt.Fprintln(k.Stderr, "its secret follows; it is shown this once (user name: the device id, password: the secret)")
	_, err := fmt.Fprintln(k.Stdout, secret)
	return err
}

// bindingView is a binding in the output.
type bindingView struct {
	Device   vitals.DeviceID  `json:"device_id,omitempty"`
	Patient  vitals.PatientID `json:"patient_id"`
	UserSlot uint8            `json:"user_slot"`
	From     string           `json:"from,omitempty"` // "": as far back as it remembers
	To       string           `json:"to,omitempty"`   // "": open
}

func viewBinding(id vitals.DeviceID, b devices.Binding) bindingView {
	return bindingView{Device: id, Patient: b.Patient, UserSlot: b.UserSlot, From: instant(b.From), To: instant(b.To)}
}

// deviceView is a device in the output.
type deviceView struct {
	ID        vitals.DeviceID `json:"id"`
	Model     string          `json:"model"`
	Serial    string          `json:"serial"`
	TZ        string          `json:"tz"`
	CreatedAt string          `json:"created_at"`
	Disabled  bool            `json:"disabled"`
	HasSecret bool            `json:"has_secret"`
	State     string          `json:"state,omitempty"`
	Battery   *int8           `json:"battery,omitempty"`
	Firmware  string          `json:"firmware,omitempty"`
	LastSeen  string          `json:"last_seen,omitempty"`
	Bindings  []bindingView   `json:"bindings"`
}

// DeviceListCmd lists devices.
type DeviceListCmd struct {
	registryFlags
	Output string `enum:"table,json" default:"table" help:"table or json."`
}

// Run lists them; state and last seen are up to a minute old beside a running server.
func (c *DeviceListCmd) Run(k *kong.Context) error {
	_, things, close, err := c.open(context.Background())
	if err != nil {
		return err
	}
	defer close()
	if c.Output == "json" {
		return writeArray(k.Stdout, func(yield func(any) bool) {
			for h := range things.All() {
				d := h.Device()
				v := deviceView{ID: d.ID, Model: d.Model, Serial: d.Serial, TZ: d.TZ, CreatedAt: instant(d.CreatedAt), Disabled: d.Disabled,
					HasSecret: d.HasSecret, State: d.Status.State, Firmware: d.Status.Firmware, LastSeen: instant(d.LastSeen), Bindings: []bindingView{}}
				if d.Status.Battery >= 0 {
					v.Battery = &d.Status.Battery
				}
				for _, b := range h.Bindings() {
					v.Bindings = append(v.Bindings, viewBinding("", b))
				}
				if !yield(v) {
					return
				}
			}
		})
	}
	w := tabwriter.NewWriter(k.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tPATIENT\tMODEL\tSTATE\tBATTERY\tLAST SEEN\tLOGIN")
	for h := range things.All() {
		d := h.Device()
		var who []string
		for _, b := range h.Bindings() {
			if b.To == 0 {
				who = append(who, string(b.Patient)+slotText(b.UserSlot))
			}
		}
		battery := "-"
		if d.Status.Battery >= 0 {
			battery = fmt.Sprintf("%d %%", d.Status.Battery)
		}
		login := "secret"
		if !d.HasSecret {
			login = "no secret"
		}
		if d.Disabled {
			login = "disabled"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.ID, dash(strings.Join(who, ", ")), dash(d.Model), dash(d.Status.State), battery, dash(instant(d.LastSeen)), login)
	}
	return w.Flush()
}

// DeviceBindCmd binds a device.
type DeviceBindCmd struct {
	registryFlags
	ID      string    `arg:"" help:"Device id."`
	Patient string    `required:"" placeholder:"P" help:"Patient it measures for."`
	Slot    uint8     `placeholder:"N" help:"User slot on a shared device; 0 for any that has no binding of its own."`
	From    time.Time `placeholder:"T" help:"From when on (RFC 3339); else from now, or from the beginning when nobody else can have used it before."`
}

// Run binds it.
func (c *DeviceBindCmd) Run(k *kong.Context) error {
	ctx := context.Background()
	_, things, close, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer close()
	if err := things.Bind(ctx, vitals.DeviceID(c.ID), c.Slot, vitals.PatientID(c.Patient), micros(c.From)); err != nil {
		return err
	}
	for _, b := range things.Find(vitals.DeviceID(c.ID)).Bindings() {
		if b.UserSlot == c.Slot && b.To == 0 {
			fmt.Fprintf(k.Stderr, "device %s%s measures for %s from %s on\n", c.ID, slotText(c.Slot), b.Patient, cmp.Or(instant(b.From), "the beginning"))
		}
	}
	return nil
}

// DeviceUnbindCmd ends a binding.
type DeviceUnbindCmd struct {
	registryFlags
	ID   string    `arg:"" help:"Device id."`
	Slot uint8     `placeholder:"N" help:"User slot; 0 for the binding for any."`
	At   time.Time `placeholder:"T" help:"When it ended (RFC 3339); else now."`
}

// Run ends it.
func (c *DeviceUnbindCmd) Run(k *kong.Context) error {
	ctx := context.Background()
	_, things, close, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer close()
	if err := things.Unbind(ctx, vitals.DeviceID(c.ID), c.Slot, micros(c.At)); err != nil {
		return err
	}
	fmt.Fprintf(k.Stderr, "device %s%s is unbound\n", c.ID, slotText(c.Slot))
	return nil
}

// DeviceRotateCmd gives a new secret.
type DeviceRotateCmd struct {
	registryFlags
	ID      string        `arg:"" help:"Device id."`
	Overlap time.Duration `default:"168h" help:"How long the old secret stays valid beside the new one; 0s ends it at once."`
}

// Run prints it.
func (c *DeviceRotateCmd) Run(k *kong.Context) error {
	ctx := context.Background()
	_, things, close, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer close()
	if c.Overlap < 0 {
		return fmt.Errorf("--overlap must not be negative")
	}
	secret, err := things.Rotate(ctx, vitals.DeviceID(c.ID), c.Overlap)
	if err != nil {
		return err
	}
	fmt.Fprintf(k.Stderr, "device %s has a new secret; the old one ends in %v\n", c.ID, c.Overlap)
	return printSecret(k, secret)
}

// DeviceDisableCmd cuts a device off.
type DeviceDisableCmd struct {
	registryFlags
	ID string `arg:"" help:"Device id."`
}

// Run disables it.
func (c *DeviceDisableCmd) Run(k *kong.Context) error {
	return setDisabled(k, &c.registryFlags, c.ID, true)
}

// DeviceEnableCmd lets a device in again.
type DeviceEnableCmd struct {
	registryFlags
	ID string `arg:"" help:"Device id."`
}

// Run enables it.
func (c *DeviceEnableCmd) Run(k *kong.Context) error {
	return setDisabled(k, &c.registryFlags, c.ID, false)
}

func setDisabled(k *kong.Context, f *registryFlags, id string, disabled bool) error {
	ctx := context.Background()
	_, things, close, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer close()
	if err := things.SetDisabled(ctx, vitals.DeviceID(id), disabled); err != nil {
		return err
	}
	fmt.Fprintf(k.Stderr, "device %s is %s\n", id, map[bool]string{true: "disabled", false: "enabled"}[disabled])
	return nil
}

// writeArray writes a JSON array, one element per line, without holding it.
func writeArray(w io.Writer, items func(yield func(any) bool)) error {
	sep, err := "[", error(nil)
	for v := range items {
		var b []byte
		if b, err = json.Marshal(v); err != nil {
			return err
		}
		if _, err = fmt.Fprintf(w, "%s\n%s", sep, b); err != nil {
			return err
		}
		sep = ","
	}
	if sep == "[" {
		_, err = fmt.Fprintln(w, "[]")
		return err
	}
	_, err = fmt.Fprint(w, "\n]\n")
	return err
}

// instant is RFC 3339 in UTC, "" for 0.
func instant(m vitals.Micros) string {
	if m == 0 {
		return ""
	}
	return m.Time().Format(time.RFC3339)
}

// micros is 0 for the zero time.
func micros(t time.Time) vitals.Micros {
	if t.IsZero() {
		return 0
	}
	return vitals.At(t)
}

func slotText(slot uint8) string {
	if slot == 0 {
		return ""
	}
	return fmt.Sprintf(" slot %d", slot)
}

func dash(s string) string { return cmp.Or(s, "-") }

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
