package web

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"time"

	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/devices/authority"
	"vitalwatch/devices/catalogue"
	"vitalwatch/devices/claimqr"
	"vitalwatch/vitals"
)

// Devices is who sends; *devices.Registry is the real one.
type Devices interface {
	Find(id vitals.DeviceID) *devices.Handle
	All() iter.Seq[*devices.Handle]
	Page(after vitals.DeviceID, limit int) (page []*devices.Handle, next vitals.DeviceID)
	StatusHistory(ctx context.Context, id vitals.DeviceID, from, to vitals.Micros, before int64, limit int) ([]devices.StatusChange, error)

	Add(ctx context.Context, n devices.New) (h *devices.Handle, secret string, err error)
	Set(ctx context.Context, id vitals.DeviceID, c devices.Change) error
	Bind(ctx context.Context, id vitals.DeviceID, slot uint8, patient vitals.PatientID, from vitals.Micros) error
	BindGap(ctx context.Context, id vitals.DeviceID, slot uint8, patient vitals.PatientID, from vitals.Micros) error
	Unbind(ctx context.Context, id vitals.DeviceID, slot uint8, at vitals.Micros) error
	Assign(ctx context.Context, gateway, device vitals.DeviceID) error
	Unassign(ctx context.Context, gateway, device vitals.DeviceID) error
	Rotate(ctx context.Context, id vitals.DeviceID, overlap time.Duration) (secret string, err error)
	Revoke(ctx context.Context, id vitals.DeviceID) error
	RevokeCertificate(ctx context.Context, id vitals.DeviceID, serial string) error
	SetDisabled(ctx context.Context, id vitals.DeviceID, disabled bool) error
	Give(ctx context.Context, patient vitals.PatientID, by string, readings []vitals.Reading) error

	NewClaim(ctx context.Context, id vitals.DeviceID, valid time.Duration, by string) (code string, expires vitals.Micros, err error)
	Provision(ctx context.Context, code string, req *authority.Request) (devices.Provisioned, error)
	RenewSecret(ctx context.Context, id vitals.DeviceID, password []byte) (secret string, err error)
	RenewCertificate(ctx context.Context, leaf *x509.Certificate, req *authority.Request, proof []byte) (vitals.DeviceID, *authority.Certificate, error)
	IssueCertificate(ctx context.Context, id vitals.DeviceID, password []byte, req *authority.Request) (*authority.Certificate, error)
}

// DeviceDeps is what the routes about devices need; without Devices there are no devices to see.
type DeviceDeps struct {
	Devices Devices
	Models  *catalogue.Catalogue
	Waiting Waiting
	// Reweigh is called for who has been given readings: what is known of their weight is read anew. Optional.
	Reweigh func(vitals.PatientID)
}

func deviceRoutes() []route {
	const device = base + "/devices/{id}"
	return []route{
		{method: "GET", path: base + "/devices", id: "listDevices", summary: "Devices by id", need: canRead, register: typed(listDevices)},
		{method: "POST", path: base + "/devices", id: "addDevice", summary: "Add a device; its secret is shown this once", need: canAdmin, status: http.StatusCreated, register: typed(addDevice)},
		{method: "GET", path: device, id: "getDevice", summary: "One device", need: canRead, register: typed(getDevice)},
		{method: "POST", path: device, id: "setDevice", summary: "Change model, serial number or zone", need: canAdmin, register: typed(setDevice)},
		{method: "GET", path: device + "/status", id: "listDeviceStatus", summary: "What the device said of itself, newest first", need: canRead, register: typed(listDeviceStatus)},
		{method: "GET", path: device + "/guide", id: "getDeviceGuide", summary: "How the device is used, by its model or by what it measures", need: canRead, register: typed(getDeviceGuide)},
		{method: "POST", path: device + "/bind", id: "bindDevice", summary: "Let the device, or one user slot, measure for a patient from now on", need: canAct, register: typed(bindDevice)},
		{method: "POST", path: device + "/unbind", id: "unbindDevice", summary: "End a binding; later readings wait for an owner", need: canAct, register: typed(unbindDevice)},
		{method: "POST", path: device + "/claim-code", id: "makeClaimCode", summary: "A one-time code, also as a QR picture, with which the device gives itself a credential", need: canAct, register: typed(makeClaimCode)},
		{method: "POST", path: device + "/rotate", id: "rotateDevice", summary: "A new secret, shown this once; the old one stays valid for the overlap", need: canAdmin, register: typed(rotateDevice)},
		{method: "POST", path: device + "/revoke", id: "revokeDevice", summary: "End every credential, or one certificate, now; the live session ends", need: canAdmin, register: typed(revokeDevice)},
		{method: "POST", path: device + "/disable", id: "disableDevice", summary: "Cut the device off", need: canAdmin, register: typed(disableDevice)},
		{method: "POST", path: device + "/enable", id: "enableDevice", summary: "Let the device in again", need: canAdmin, register: typed(enableDevice)},
		{method: "POST", path: device + "/gateways", id: "assignGateway", summary: "Let a gateway speak for the device", need: canAdmin, register: typed(assignGateway)},
		{method: "DELETE", path: device + "/gateways/{gateway}", id: "unassignGateway", summary: "End that a gateway speaks for the device", need: canAdmin, register: typed(unassignGateway)},

		{method: "GET", path: base + "/models", id: "listModels", summary: "Device models that are known", need: canRead, register: typed(listModels)},
		{method: "GET", path: base + "/models/{id}", id: "getModel", summary: "One model with its complete guide", need: canRead, register: typed(getModel)},

		{method: "GET", path: base + "/unassigned", id: "listUnassigned", summary: "Readings that wait for an owner, by device and user slot", need: canRead, register: typed(listUnassigned)},
		{method: "POST", path: base + "/unassigned/{id}/assign", id: "assignUnassigned", summary: "Say whose readings they are; they are then taken in", need: canAct, register: typed(assignUnassigned)},
		{method: "POST", path: base + "/unassigned/{id}/dismiss", id: "dismissUnassigned", summary: "Drop a message that is nobody's here", need: canAct, register: typed(dismissUnassigned)},

		{method: "POST", path: base + "/provision", id: "provision", summary: "Redeem a claim code for a secret, or with a signing request for a certificate", public: true, register: typed(provision)},
		{method: "POST", path: base + "/provision/renew", id: "renewCredential", summary: "The next certificate or secret for one that shows the present one", public: true, register: typed(renew)},
	}
}

// deviceProblem gives errors of the registry their answers; the rest is left to problemOf.
func deviceProblem(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, devices.ErrNotFound), errors.Is(err, care.ErrNotFound):
		return errNotFound
	case errors.Is(err, devices.ErrExists):
		return problem(http.StatusConflict, "device-exists", "the device exists already", err.Error())
	case errors.Is(err, devices.ErrConflict):
		return problem(http.StatusConflict, "device-conflict", "that does not fit what is", err.Error())
	case errors.Is(err, devices.ErrInvalid):
		return problem(http.StatusUnprocessableEntity, "device-invalid", "that cannot be", err.Error())
	case errors.Is(err, devices.ErrBadCode):
		return problem(http.StatusForbidden, "claim-code", "the claim code is not valid", "it is used, over or mistyped: ask for a new one")
	case errors.Is(err, devices.ErrBadCredentials):
		return problem(http.StatusUnauthorized, "bad-credentials", "the credential is not valid", "show the credential in force, or ask for a claim code")
	case errors.Is(err, devices.ErrNotAuthorized):
		return problem(http.StatusForbidden, "device-disabled", "the device may not connect", "ask the operator")
	case errors.Is(err, authority.ErrBadRequest), errors.Is(err, authority.ErrBadCertificate):
		return badRequest(err.Error())
	}
	return err
}

// DeviceBinding says for whom a device's user slot measures.
type DeviceBinding struct {
	PatientID string `json:"patient_id"`
	UserSlot  uint8  `json:"user_slot" doc:"0: any slot that has no binding of its own"`
	From      string `json:"from,omitempty" doc:"absent: as far back as the device remembers"`
	To        string `json:"to,omitempty" doc:"absent: open"`
}

// DeviceGateway says which gateway may speak for a device.
type DeviceGateway struct {
	GatewayID string `json:"gateway_id"`
	From      string `json:"from"`
	To        string `json:"to,omitempty"`
}

// DeviceCredential is a secret or certificate without what is secret of it.
type DeviceCredential struct {
	Kind    string `json:"kind" enum:"secret,certificate"`
	Serial  string `json:"serial,omitempty"`
	EndsAt  string `json:"ends_at,omitempty"`
	Ended   bool   `json:"ended,omitempty"`
	Foreign bool   `json:"foreign,omitempty" doc:"of another authority, revoked"`
}

// DeviceItem is a device as the API shows it.
type DeviceItem struct {
	ID          string             `json:"id"`
	Model       string             `json:"model"`
	ModelID     string             `json:"model_id,omitempty" doc:"in /models, when the model is known"`
	Serial      string             `json:"serial"`
	TZ          string             `json:"tz,omitempty"`
	CreatedAt   string             `json:"created_at"`
	Disabled    bool               `json:"disabled"`
	State       string             `json:"state,omitempty" doc:"online, sleeping, lost, as it said last"`
	StateAt     string             `json:"state_at,omitempty"`
	Battery     *int               `json:"battery,omitempty" doc:"percent"`
	Firmware    string             `json:"firmware,omitempty"`
	LastSeen    string             `json:"last_seen,omitempty"`
	LastError   *DeviceError       `json:"last_error,omitempty" doc:"the last measurement that the device said had failed"`
	Clock       DeviceClock        `json:"clock"`
	Bindings    []DeviceBinding    `json:"bindings"`
	Gateways    []DeviceGateway    `json:"gateways"`
	Credentials []DeviceCredential `json:"credentials"`
	Attention   []string           `json:"attention,omitempty" doc:"in lists: silent, battery (20 % or less), error (a measurement failed within the last day), clock (in doubt), unbound (measures for nobody, and is no gateway); not of disabled devices"`
}

// DeviceError is a measurement that the device said had failed.
type DeviceError struct {
	At        string `json:"at" doc:"by the device"`
	Indicator string `json:"indicator"`
	vitals.DeviceFault
	Guide *catalogue.ErrorCode `json:"guide,omitempty" doc:"what it means on this model and what to do, where the catalogue knows it"`
}

// DeviceClock is how far the device's own times are believed.
type DeviceClock struct {
	Trust   string `json:"trust" doc:"ok, doubtful or corrected"`
	OffsetS int64  `json:"offset_s" doc:"seconds that its clock is ahead of the true time, taken off its readings' times; 0 unless corrected"`
	Since   string `json:"since,omitempty"`
}

func (v *view) deviceItem(h *devices.Handle) DeviceItem {
	d := h.Device()
	it := DeviceItem{ID: string(d.ID), Model: d.Model, Serial: d.Serial, TZ: d.TZ, CreatedAt: stamp(d.CreatedAt), Disabled: d.Disabled,
		State: d.Status.State, StateAt: stamp(d.Status.At), Firmware: d.Status.Firmware, LastSeen: stamp(d.LastSeen),
		Bindings: []DeviceBinding{}, Gateways: []DeviceGateway{}, Credentials: []DeviceCredential{}}
	c := h.Clock()
	it.Clock = DeviceClock{Trust: string(c.Trust), OffsetS: int64(c.Offset / vitals.Second), Since: stamp(c.Since)}
	if m, ok := v.s.model(d.Model); ok {
		it.ModelID = m.ID
	}
	if f := d.Failure; f.At != 0 {
		it.LastError = &DeviceError{At: stamp(f.At), Indicator: f.Indicator.String(), DeviceFault: f.DeviceFault}
		if e, ok := v.s.errorGuide(d.Model, f.Indicator.String(), f.DeviceFault); ok {
			it.LastError.Guide = &e
		}
	}
	if b := int(d.Status.Battery); b >= 0 {
		it.Battery = &b
	}
	for _, b := range h.Bindings() {
		if v.may(b.Patient) {
			it.Bindings = append(it.Bindings, DeviceBinding{PatientID: string(b.Patient), UserSlot: b.UserSlot, From: stamp(b.From), To: stamp(b.To)})
		}
	}
	for _, a := range h.Gateways() {
		it.Gateways = append(it.Gateways, DeviceGateway{GatewayID: string(a.Gateway), From: stamp(a.From), To: stamp(a.To)})
	}
	for _, c := range h.Credentials(vitals.At(v.s.now())) {
		it.Credentials = append(it.Credentials, DeviceCredential{Kind: c.Kind, Serial: c.Serial, EndsAt: stamp(c.EndsAt), Ended: c.Ended, Foreign: c.Foreign})
	}
	return it
}

func (s *Server) model(name string) (*catalogue.Model, bool) {
	if s.d.Models == nil {
		return nil, false
	}
	return s.d.Models.Find(name)
}

// mayDevice: people who see only some patients see the devices that measure, or measured, for one of them.
func (v *view) mayDevice(h *devices.Handle) bool {
	if len(v.p.Teams) == 0 {
		return true
	}
	return slices.ContainsFunc(h.Bindings(), func(b devices.Binding) bool { return v.may(b.Patient) })
}

func (v *view) device(id string) (*devices.Handle, error) {
	if v.s.d.Devices == nil {
		return nil, errNotFound
	}
	h := v.s.d.Devices.Find(vitals.DeviceID(id))
	if h == nil || !v.mayDevice(h) {
		return nil, errNotFound
	}
	return h, nil
}

// change looks a device up, notes the act, and does it.
func (v *view) change(ctx context.Context, id, act string, patient vitals.PatientID, f func(id vitals.DeviceID) error) error {
	h, err := v.device(id)
	if err != nil {
		return err
	}
	if patient != "" {
		if _, err := v.patient(patient); err != nil {
			return err
		}
	}
	if err := v.record(ctx, "device."+act, patient, id); err != nil {
		return err
	}
	return deviceProblem(f(h.ID()))
}

// DevicePath names a device.
type DevicePath struct {
	ID string `path:"id" maxLength:"64" doc:"device id"`
}

type deviceOutput struct{ Body DeviceItem }

func (v *view) deviceOutput(id string) (*deviceOutput, error) {
	h, err := v.device(id)
	if err != nil {
		return nil, err
	}
	return &deviceOutput{v.deviceItem(h)}, nil
}

// Attention is what an operator should look at: our proposals, no standard says numbers.
const (
	attentionBattery = 20 // percent, and below
	attentionSilent  = "silent"
	attentionLow     = "battery"
	attentionError   = "error"
	attentionFailed  = 24 * time.Hour // how long a failed measurement is news
	attentionClock   = "clock"
	attentionUnbound = "unbound"
)

// attention lists what is amiss with a device; one that was cut off wants nobody. silent is how long it may say nothing.
func attention(h *devices.Handle, now vitals.Micros, silent time.Duration) []string {
	d := h.Device()
	out := []string{}
	if d.Disabled {
		return out
	}
	if now.Sub(max(d.LastSeen, d.CreatedAt)) > silent {
		out = append(out, attentionSilent)
	}
	if d.Status.Battery >= 0 && d.Status.Battery <= attentionBattery {
		out = append(out, attentionLow)
	}
	if d.Failure.At != 0 && now.Sub(d.Failure.At) <= attentionFailed {
		out = append(out, attentionError)
	}
	if h.Clock().Trust == devices.ClockDoubtful {
		out = append(out, attentionClock)
	}
	if h.SpeaksFor() == 0 && !slices.ContainsFunc(h.Bindings(), func(b devices.Binding) bool { return b.Covers(now) }) {
		out = append(out, attentionUnbound)
	}
	return out
}

func listDevices(s *Server, ctx context.Context, in *struct {
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"200"`
	Cursor  string `query:"cursor" maxLength:"64"`
	Patient string `query:"patient" maxLength:"64" doc:"only those that measure, or measured, for this patient"`

	Attention  bool `query:"attention" doc:"only those that somebody should look at, see attention"`
	SilentDays int  `query:"silent_days" minimum:"1" maximum:"365" default:"3" doc:"after how many days without a word a device is silent"`
}) (*page[DeviceItem], error) {
	v := viewOf(ctx)
	patient := vitals.PatientID(in.Patient)
	if patient != "" {
		if _, err := v.patient(patient); err != nil {
			return nil, err
		}
	}
	if err := v.record(ctx, "devices.list", patient, ""); err != nil {
		return nil, err
	}
	items := []DeviceItem{}
	after := vitals.DeviceID(in.Cursor)
	for s.d.Devices != nil {
		hs, next := s.d.Devices.Page(after, 1000)
		for _, h := range hs {
			if !v.mayDevice(h) || patient != "" && !slices.ContainsFunc(h.Bindings(), func(b devices.Binding) bool { return b.Patient == patient }) {
				continue
			}
			what := attention(h, vitals.At(s.now()), time.Duration(in.SilentDays)*24*time.Hour)
			if in.Attention && len(what) == 0 {
				continue
			}
			if len(items) == in.Limit {
				return paged(items, items[len(items)-1].ID), nil
			}
			it := v.deviceItem(h)
			it.Attention = what
			items = append(items, it)
		}
		if after = next; next == "" {
			break
		}
	}
	return paged(items, ""), nil
}

func getDevice(_ *Server, ctx context.Context, in *DevicePath) (*deviceOutput, error) {
	v := viewOf(ctx)
	if err := v.record(ctx, "device.view", "", in.ID); err != nil {
		return nil, err
	}
	return v.deviceOutput(in.ID)
}

// NewDeviceOutput is a new device with its secret.
type NewDeviceOutput struct {
	DeviceItem
	Secret string `json:"secret,omitempty" doc:"shown this once: user name is the device id, password the secret"`
}

func addDevice(s *Server, ctx context.Context, in *struct {
	Body struct {
		ID        string `json:"id" maxLength:"64" doc:"a pseudonym: it stands in topics and logs"`
		Model     string `json:"model,omitempty" maxLength:"100"`
		Serial    string `json:"serial,omitempty" maxLength:"100"`
		TZ        string `json:"tz,omitempty" maxLength:"64" doc:"IANA zone of the device's own clock"`
		PatientID string `json:"patient_id,omitempty" maxLength:"64"`
		UserSlot  uint8  `json:"user_slot,omitempty"`
		From      string `json:"from,omitempty" format:"date-time"`
		NoSecret  bool   `json:"no_secret,omitempty" doc:"it gets its credential by a claim code, or needs none"`
	}
}) (*struct {
	Body NewDeviceOutput
}, error) {
	v, b := viewOf(ctx), &in.Body
	if s.d.Devices == nil {
		return nil, errNotFound
	}
	from, err := moment("from", b.From)
	if err != nil {
		return nil, err
	}
	patient := vitals.PatientID(b.PatientID)
	if patient != "" {
		if _, err := v.patient(patient); err != nil {
			return nil, err
		}
	}
	if err := v.record(ctx, "device.add", patient, b.ID); err != nil {
		return nil, err
	}
	h, secret, err := s.d.Devices.Add(ctx, devices.New{ID: vitals.DeviceID(b.ID), Model: b.Model, Serial: b.Serial, TZ: b.TZ,
		Patient: patient, Slot: b.UserSlot, From: from, NoSecret: b.NoSecret})
	if err != nil {
		return nil, deviceProblem(err)
	}
	return &struct{ Body NewDeviceOutput }{NewDeviceOutput{v.deviceItem(h), secret}}, nil
}

// moment reads an instant, 0 for none.
func moment(name, text string) (vitals.Micros, error) {
	if text == "" {
		return 0, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() < 1970 || t.Year() > 9999 {
		return 0, badRequest(name + " must be an RFC 3339 time such as 2026-11-21T00:00:00Z")
	}
	return vitals.At(t), nil
}

func setDevice(s *Server, ctx context.Context, in *struct {
	DevicePath
	Body struct {
		Model  *string `json:"model,omitempty" maxLength:"100"`
		Serial *string `json:"serial,omitempty" maxLength:"100"`
		TZ     *string `json:"tz,omitempty" maxLength:"64"`
	}
}) (*deviceOutput, error) {
	v := viewOf(ctx)
	if err := v.change(ctx, in.ID, "set", "", func(id vitals.DeviceID) error {
		return s.d.Devices.Set(ctx, id, devices.Change{Model: in.Body.Model, Serial: in.Body.Serial, TZ: in.Body.TZ})
	}); err != nil {
		return nil, err
	}
	return v.deviceOutput(in.ID)
}

// DeviceStatusItem is one change of what a device said of itself.
type DeviceStatusItem struct {
	At       string `json:"at"`
	State    string `json:"state" enum:"online,sleeping,lost"`
	Battery  *int   `json:"battery,omitempty"`
	Firmware string `json:"firmware,omitempty"`
}

func listDeviceStatus(s *Server, ctx context.Context, in *struct {
	DevicePath
	PeriodQuery
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" maxLength:"40"`
}) (*page[DeviceStatusItem], error) {
	v := viewOf(ctx)
	h, err := v.device(in.ID)
	if err != nil {
		return nil, err
	}
	per, err := in.parse()
	if err != nil {
		return nil, err
	}
	var before int64
	if in.Cursor != "" {
		if before, err = strconv.ParseInt(in.Cursor, 10, 64); err != nil || before <= 0 {
			return nil, errBadCursor
		}
	}
	if err := v.record(ctx, "device.status", "", in.ID); err != nil {
		return nil, err
	}
	cs, err := s.d.Devices.StatusHistory(ctx, h.ID(), per.From, per.To, before, in.Limit+1)
	if err != nil {
		return nil, deviceProblem(err)
	}
	next := ""
	if len(cs) > in.Limit {
		cs = cs[:in.Limit]
		next = strconv.FormatInt(cs[in.Limit-1].ID, 10)
	}
	var items []DeviceStatusItem
	for _, c := range cs {
		it := DeviceStatusItem{At: stamp(c.At), State: c.State, Firmware: c.Firmware}
		if b := int(c.Battery); b >= 0 {
			it.Battery = &b
		}
		items = append(items, it)
	}
	return paged(items, next), nil
}

func bindDevice(s *Server, ctx context.Context, in *struct {
	DevicePath
	Body struct {
		PatientID string `json:"patient_id" minLength:"1" maxLength:"64"`
		UserSlot  uint8  `json:"user_slot,omitempty"`
		From      string `json:"from,omitempty" format:"date-time" doc:"absent: from now, or from the beginning when nobody else can have used it"`
	}
}) (*deviceOutput, error) {
	v := viewOf(ctx)
	from, err := moment("from", in.Body.From)
	if err != nil {
		return nil, err
	}
	patient := vitals.PatientID(in.Body.PatientID)
	if err := v.change(ctx, in.ID, "bind", patient, func(id vitals.DeviceID) error {
		return s.d.Devices.Bind(ctx, id, in.Body.UserSlot, patient, from)
	}); err != nil {
		return nil, err
	}
	return v.deviceOutput(in.ID)
}

func unbindDevice(s *Server, ctx context.Context, in *struct {
	DevicePath
	Body struct {
		UserSlot uint8  `json:"user_slot,omitempty"`
		At       string `json:"at,omitempty" format:"date-time" doc:"absent: now"`
	}
}) (*deviceOutput, error) {
	v := viewOf(ctx)
	at, err := moment("at", in.Body.At)
	if err != nil {
		return nil, err
	}
	h, err := v.device(in.ID)
	if err != nil {
		return nil, err
	}
	for _, b := range h.Bindings() {
		if b.UserSlot == in.Body.UserSlot && b.To == 0 && !v.may(b.Patient) {
			return nil, errNotFound // the slot of somebody else's patient
		}
	}
	if err := v.change(ctx, in.ID, "unbind", "", func(id vitals.DeviceID) error {
		return s.d.Devices.Unbind(ctx, id, in.Body.UserSlot, at)
	}); err != nil {
		return nil, err
	}
	return v.deviceOutput(in.ID)
}

// ClaimCode is a one-time code.
type ClaimCode struct {
	DeviceID  string `json:"device_id"`
	Code      string `json:"code" example:"7K2QD-93MXA"`
	ExpiresAt string `json:"expires_at"`
	Text      string `json:"text" doc:"what the picture says"`
	PNG       string `json:"qr_png" doc:"the picture, PNG in base64"`
}

func makeClaimCode(s *Server, ctx context.Context, in *struct {
	DevicePath
	Body struct {
		ValidHours int    `json:"valid_hours,omitempty" minimum:"1" maximum:"720" default:"24"`
		Server     string `json:"server,omitempty" maxLength:"200" doc:"address that the picture names, such as https://desk.example"`
	}
}) (*struct{ Body ClaimCode }, error) {
	v := viewOf(ctx)
	out := &struct{ Body ClaimCode }{}
	err := v.change(ctx, in.ID, "claim-code", "", func(id vitals.DeviceID) error {
		code, expires, err := s.d.Devices.NewClaim(ctx, id, time.Duration(max(in.Body.ValidHours, 1))*time.Hour, v.p.Kind+" "+v.p.Name)
		if err != nil {
			return err
		}
		code = devices.FormatCode(code)
		text := claimqr.Text(code, id, in.Body.Server)
		png, err := claimqr.PNG(text)
		if err != nil {
			return err
		}
		out.Body = ClaimCode{DeviceID: string(id), Code: code, ExpiresAt: stamp(expires), Text: text, PNG: base64.StdEncoding.EncodeToString(png)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// SecretOutput is a secret, shown once.
type SecretOutput struct {
	DeviceID string `json:"device_id"`
	Secret   string `json:"secret"`
}

func rotateDevice(s *Server, ctx context.Context, in *struct {
	DevicePath
	Body struct {
		OverlapHours int `json:"overlap_hours,omitempty" minimum:"0" maximum:"8760" doc:"how long the old one stays valid; absent: not at all"`
	}
}) (*struct{ Body SecretOutput }, error) {
	out := &struct{ Body SecretOutput }{}
	err := viewOf(ctx).change(ctx, in.ID, "rotate", "", func(id vitals.DeviceID) (err error) {
		out.Body.DeviceID = string(id)
		out.Body.Secret, err = s.d.Devices.Rotate(ctx, id, time.Duration(in.Body.OverlapHours)*time.Hour)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func revokeDevice(s *Server, ctx context.Context, in *struct {
	DevicePath
	Body struct {
		Serial string `json:"serial,omitempty" maxLength:"100" doc:"of one certificate, in hex; absent: every credential"`
	}
}) (*deviceOutput, error) {
	v := viewOf(ctx)
	if err := v.change(ctx, in.ID, "revoke", "", func(id vitals.DeviceID) error {
		if in.Body.Serial != "" {
			return s.d.Devices.RevokeCertificate(ctx, id, in.Body.Serial)
		}
		return s.d.Devices.Revoke(ctx, id)
	}); err != nil {
		return nil, err
	}
	return v.deviceOutput(in.ID)
}

// emptyBody lets a POST come with {} or with nothing.
type emptyBody struct {
	DevicePath
	Body *struct{}
}

func disableDevice(s *Server, ctx context.Context, in *emptyBody) (*deviceOutput, error) {
	return s.setDisabled(ctx, in.ID, "disable", true)
}

func enableDevice(s *Server, ctx context.Context, in *emptyBody) (*deviceOutput, error) {
	return s.setDisabled(ctx, in.ID, "enable", false)
}

func (s *Server) setDisabled(ctx context.Context, id, act string, disabled bool) (*deviceOutput, error) {
	v := viewOf(ctx)
	if err := v.change(ctx, id, act, "", func(id vitals.DeviceID) error { return s.d.Devices.SetDisabled(ctx, id, disabled) }); err != nil {
		return nil, err
	}
	return v.deviceOutput(id)
}

func assignGateway(s *Server, ctx context.Context, in *struct {
	DevicePath
	Body struct {
		GatewayID string `json:"gateway_id" minLength:"1" maxLength:"64"`
	}
}) (*deviceOutput, error) {
	v := viewOf(ctx)
	if err := v.change(ctx, in.ID, "assign", "", func(id vitals.DeviceID) error {
		return s.d.Devices.Assign(ctx, vitals.DeviceID(in.Body.GatewayID), id)
	}); err != nil {
		return nil, err
	}
	return v.deviceOutput(in.ID)
}

func unassignGateway(s *Server, ctx context.Context, in *struct {
	DevicePath
	Gateway string `path:"gateway" maxLength:"64"`
}) (*deviceOutput, error) {
	v := viewOf(ctx)
	if err := v.change(ctx, in.ID, "unassign", "", func(id vitals.DeviceID) error {
		return s.d.Devices.Unassign(ctx, vitals.DeviceID(in.Gateway), id)
	}); err != nil {
		return nil, err
	}
	return v.deviceOutput(in.ID)
}
