package console_test

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"vitalwatch/alerting"
	"vitalwatch/vitals"
	"vitalwatch/web/console/consoletest"
)

// serve runs the mock behind a line.
func serve(t *testing.T) (*consoletest.Mock, consoletest.Target) {
	t.Helper()
	m, err := consoletest.NewMock(time.Now, 10*time.Second) // the page gives a line up that is silent for twice as long
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(m)
	line, err := consoletest.NewLine(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := line.Close(); err != nil {
			t.Error(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		srv.CloseClientConnections()
		srv.Close()
	})
	return m, consoletest.Target{URL: "http://" + line.Addr() + "/", Name: consoletest.MockName, Password: consoletest.MockPassword, Line: line,
		Raise: func() string {
			r := vitals.Reading{Patient: "P-1007", Device: "bp", Indicator: vitals.BloodPressure, Unit: vitals.MmHg, TakenAt: vitals.At(time.Now()), ReceivedAt: vitals.At(time.Now())}
			r.Set(vitals.Systolic, 191)
			r.Set(vitals.Diastolic, 117)
			m.Raise("P-1007", alerting.Critical, "bp_very_high", alerting.Text{"zh-CN": "断线期间的警报", "en": "Alert during the cut"}, 0, r)
			return "Alert during the cut"
		}}
}

func TestConsole_Journey(t *testing.T) {
	_, tg := serve(t)
	consoletest.Journey(t, tg)
}

// TestConsole_Pages opens every page in both languages, wide and narrow. With VITALWATCH_SCREENSHOTS=DIR it leaves
// pictures to look at.
func TestConsole_Pages(t *testing.T) {
	m, tg := serve(t)
	b := consoletest.Open(t, 1440, 900, "zh-CN")
	b.Go(tg.URL)
	b.Text(".link-state", "实时")
	b.Text(".patients .who", "张伟")
	b.Shot("home-zh")
	m.Measure("P-1003", vitals.SpO2, vitals.Percent, 83, 121)
	b.Text(".patients .row", "83")
	b.Go(tg.URL + "#/alerts/A-0003")
	b.Text(".trigger", "2.8") // 51 mg/dL, shown as mmol/L with what was sent
	b.Text(".trigger", "51 mg/dL")
	b.Shot("alert-zh")
	b.Go(tg.URL + "#/patients/P-1002")
	b.Text(".card", "目标范围内时间")
	b.Until("canvases", `document.querySelectorAll(".uplot canvas").length >= 2`)
	b.Shot("patient-zh")
	b.Go(tg.URL + "#/patients/P-1001")
	b.Text(".card h3", "血压")
	b.Choose(".table-filter", "blood_pressure")
	b.Text("td", "可疑读数")
	b.Shot("patient-bp-zh")
	b.Text(`section[aria-label="家庭血压测量（按次汇总）"] td`, "需要第三次测量")
	b.Text(`a[href="#/devices/cuff-1001"]`, "cuff-1001")
	b.Text("td", "已撤回")
	consoletest.Eval[bool](b, `(document.querySelector('section[aria-label="家庭血压测量（按次汇总）"]').scrollIntoView(), true)`)
	b.Shot("patient-sittings-zh")
	b.Go(tg.URL + "#/quarantine")
	b.Text("td", "unit_unknown")
	b.Text("td", "单位不认识或不适用")
	b.Shot("quarantine-zh")
	b.Go(tg.URL + "#/unassigned")
	b.Text(".group h3", "scale-1004")
	b.Text(".nav-count", "4")
	b.Shot("unassigned-zh")
	b.Go(tg.URL + "#/devices")
	b.Text("td", "欧姆龙 HEM-7")
	b.Shot("devices-zh")
	b.Go(tg.URL + "#/devices/cuff-1001")
	b.Text(".guide", "测量前排空膀胱")
	b.Text("td", "重新绑好袖带")
	b.Text("td", "已测量")
	b.Shot("device-zh")
	b.Click(".guide th")
	b.Shot("device-guide-zh")
	b.Go(tg.URL + "#/")
	b.Keys("?")
	b.Text("dialog", "键盘操作")
	b.Shot("help-zh")
	b.Keys(consoletest.Escape)
	b.Gone("dialog")

	b.Resize(360, 740)
	b.Text(".row.alert", "血氧严重过低")
	b.Shot("home-360-zh")
	overflow := func(where string) {
		t.Helper()
		if consoletest.Eval[bool](b, `document.documentElement.scrollWidth > document.documentElement.clientWidth`) {
			t.Errorf("%s is wider than 360 px", where)
		}
	}
	overflow("home")
	b.Click(".tabs button:nth-child(2)")
	b.Text(".patients .who", "王建国")
	b.Shot("patients-360-zh")
	overflow("the patients")
	b.Go(tg.URL + "#/patients/P-1001")
	b.Text(".card", "血压")
	b.Until("canvases", `document.querySelectorAll(".uplot canvas").length >= 1`)
	b.Shot("patient-360-zh")
	overflow("a patient")
	b.Go(tg.URL + "#/alerts/A-0003")
	b.Text(".trigger", "2.8")
	b.Shot("alert-360-zh")
	overflow("an alert")
	b.Go(tg.URL + "#/unassigned")
	b.Text(".group h3", "scale-1004")
	b.Shot("unassigned-360-zh")
	overflow("what waits for an owner")
	b.Go(tg.URL + "#/devices/cuff-1001")
	b.Text(".guide", "测量前排空膀胱")
	b.Shot("device-360-zh")
	overflow("a device")
	b.Go(tg.URL + "#/devices")
	b.Text("td", "欧姆龙 HEM-7")
	overflow("the devices")
	b.Go(tg.URL + "#/quarantine")
	b.Text("td", "unit_unknown")
	b.Shot("quarantine-360-zh")
	overflow("the quarantine")

	b.Resize(1440, 900)
	b.Media("prefers-color-scheme", "dark")
	b.Go(tg.URL + "#/")
	b.Click("#language")
	b.Text("h2", "Patients")
	b.Shot("home-dark-en")
	b.Go(tg.URL + "#/patients/P-1005")
	b.Text(".card", "Time in range")
	b.Shot("patient-dark-en")
	b.NoProblems()
}

// A lost answer must not make an act count twice, nor seem to have failed for good.
func TestConsole_RetryCountsOnce(t *testing.T) {
	m, tg := serve(t)
	b := consoletest.Open(t, 1280, 800, "en-US")
	b.Go(tg.URL)
	b.Login(tg)
	b.Go(tg.URL + "#/alerts/A-0003")
	b.Click(`[data-act="notes"]`)
	b.Keys("first line")
	m.LoseAnswers(1)
	b.Keys(consoletest.Enter)
	b.Text("dialog .error", "cannot be reached")
	b.Shot("retry")
	b.Keys(consoletest.Enter)
	b.Gone("dialog")
	b.Text(".history .note", "first line")
	if n := m.Acts(); n != 1 {
		t.Errorf("the act counted %d times", n)
	}
	// Another note is another act, though the words are the same.
	b.Click(`[data-act="notes"]`)
	b.Keys("first line" + consoletest.Enter)
	b.Gone("dialog")
	if n := m.Acts(); n != 2 {
		t.Errorf("two notes counted %d times", n)
	}
	b.NoProblems()
}

// Without anonymous reading there is a door, and an ended session leads back to it.
func TestConsole_Door(t *testing.T) {
	m, tg := serve(t)
	m.SetAnonymous(false)
	b := consoletest.Open(t, 1280, 800, "zh-CN")
	b.Go(tg.URL)
	b.Text(".gate", "请登录")
	b.Shot("door")
	b.Keys(tg.Name + consoletest.Tab + tg.Password + consoletest.Enter)
	b.Text(".link-state", "实时")
	b.Text(".row.alert", "血氧严重过低")
	m.EndSessions()
	b.Text(".gate", "请登录")
	b.NoProblems()
}

// What waits for an owner: who may not act sees why; one act gives a slot to a person, by keyboard; a doubtful weight
// stays its owner's; the rest is nobody's.
func TestConsole_Unassigned(t *testing.T) {
	m, tg := serve(t)
	b := consoletest.Open(t, 1280, 900, "en-US")
	b.Go(tg.URL + "#/unassigned")
	b.Text("[role=status]", "You can look, but not act")
	b.Until("acts to be off", `document.querySelectorAll('.group [data-act]:disabled').length === 9`)
	b.Login(tg)
	b.Until("acts to be on", `document.querySelectorAll('.group [data-act]:disabled').length === 0`)
	b.Text(".group .item", "81.3 kg")
	b.Click(`.group[aria-label="cuff-1001"] .item:nth-child(1) [data-act="assign"]`)
	b.Text("dialog .about", "128/79")
	b.Keys("Anna")
	b.Until("one match, chosen", `document.querySelector("#assign-who").options.length === 1 && document.querySelector("#assign-who").value === "P-1013"`)
	b.Shot("assign-en")
	b.Keys(consoletest.Enter)
	b.Gone("dialog")
	b.Toast("Assigned to Anna Berg")
	b.Toast("6 readings taken in")
	b.Text(".nav-count", "3")
	b.Click(`.group[aria-label="scale-1004"] [data-act="own"]`)
	b.Until("the owner to be chosen", `document.querySelector("#assign-who").value === "P-1004"`)
	b.Click(`dialog button[type="submit"]`)
	b.Gone("dialog")
	b.Text(".nav-count", "2")
	b.Click(`.group[aria-label="BG-77A1"] [data-act="dismiss"]`)
	b.Text("dialog", "the other 2 go on waiting")
	b.Keys(consoletest.Escape)
	b.Gone("dialog")
	b.Until("focus to return", `document.activeElement?.dataset.act === "dismiss"`)
	b.Keys(consoletest.Enter)
	b.Text("dialog", "Nobody's reading?")
	b.Keys(consoletest.Enter)
	b.Gone("dialog")
	b.Text(`.group[aria-label="BG-77A1"] header`, "2 readings")
	if got, want := m.Assigned(), []string{"30-2 P-1013 device_slot", "31-0 P-1004 this"}; !slices.Equal(got, want) {
		t.Errorf("assigned %q, want %q", got, want)
	}
	b.NoProblems()
}

// The quarantine by device and problem; content only on demand; one message again, and all that are shown.
func TestConsole_Quarantine(t *testing.T) {
	m, tg := serve(t)
	b := consoletest.Open(t, 1280, 900, "en-US")
	b.Go(tg.URL)
	b.Login(tg)
	b.Go(tg.URL + "#/quarantine")
	b.Until("all three", `document.querySelectorAll("tbody tr").length === 3`)
	b.Choose("#quarantine-problem", "characteristic_bad")
	b.Until("one of them", `document.querySelectorAll("tbody tr").length === 1`)
	b.Text("td", "came 12 times")
	if n := m.Looks(); n != 0 {
		t.Errorf("the list has looked into %d messages", n)
	}
	b.Click(`[data-act="look"]`)
	b.Text("dialog pre", "0000  16 8e 00 5b")
	b.Text("dialog", "has been recorded")
	b.Shot("quarantine-content-en")
	b.Keys(consoletest.Escape)
	b.Gone("dialog")
	if n := m.Looks(); n != 1 {
		t.Errorf("one look counted %d times", n)
	}
	b.Click(`[data-act="replay"]`)
	b.Toast("0 readings taken in, 0 duplicates, 1 still refused")
	b.Choose("#quarantine-problem", "")
	b.Until("all three again", `document.querySelectorAll("tbody tr").length === 3`)
	b.Click(`[data-act="replay-all"]`)
	b.Toast("3 readings taken in, 0 duplicates, 2 still refused")
	b.Until("the mended one to be gone", `document.querySelectorAll("tbody tr").length === 2`)
	b.Choose("#quarantine-device", "bp-3")
	b.Until("one device's", `document.querySelectorAll("tbody tr").length === 1`)
	b.Choose("#quarantine-problem", "clock_ahead")
	b.Text("[role=status]", "Nothing passes the filter")
	b.NoProblems()
}

// From a patient to the device that measures: who had it, how it was, how it is used, and asking for another measurement.
func TestConsole_Devices(t *testing.T) {
	m, tg := serve(t)
	b := consoletest.Open(t, 1280, 900, "en-US")
	b.Go(tg.URL + "#/devices")
	b.Until("all devices", `document.querySelectorAll("tbody tr").length === 4`)
	b.Text("td .remark", "8% Low battery")
	b.Click(`.toolbar input[type="search"]`)
	b.Keys("王建国")
	b.Until("one device", `document.querySelectorAll("tbody tr").length === 1`)
	b.Go(tg.URL + "#/patients/P-1001")
	b.Click(`a[href="#/devices/cuff-1001"]`)
	b.Text(".patient-head h2", "Omron HEM-7 series")
	b.Text("td", "the beginning") // of the one who had it before
	b.Text(".guide li", "Empty your bladder first.")
	b.Text("td", "wrap the cuff again")
	b.Until("asking to be off", `document.querySelector('[data-act="remeasure"]').disabled`)
	b.Login(tg)
	b.Click(`[data-act="remeasure"]`)
	b.Toast("is on its way")
	b.Text("td .badge", "Waiting for the device")
	sent := m.Commands("cuff-1001")
	if len(sent) != 2 || !strings.Contains(sent[0], "请静坐休息几分钟") || !strings.Contains(sent[0], "Please rest") {
		t.Fatalf("sent %q", sent)
	}
	b.Shot("device-asked-en")
	m.Answer("cuff-1001", "declined")
	b.Text("td", "Declined") // without a touch
	b.Shot("device-en")
	b.NoProblems()
}

// Sittings with the cuff: their means, how many readings, where a third is wanted; a new reading shows at once.
func TestConsole_Sittings(t *testing.T) {
	m, tg := serve(t)
	b := consoletest.Open(t, 1280, 900, "en-US")
	b.Go(tg.URL + "#/patients/P-1001")
	const box = `section[aria-label="Blood pressure by sitting"]`
	b.Until("three sittings", `document.querySelectorAll('`+box+` tbody tr').length === 3`)
	b.Until("a third wanted in the newest alone", `[...document.querySelectorAll('`+box+` tbody tr')].map(r => r.textContent.includes("A third reading is wanted")).join() === "true,false,false"`)
	b.Text(box+" td", "2 readings")
	m.Measure("P-1001", vitals.BloodPressure, vitals.MmHg, 133, 81, 70)
	b.Text(box+" tr:first-child td", "134/81") // the mock's means are half a millimetre above
	b.Go(tg.URL + "#/patients/P-1003")
	b.Text(".card h3", "Oxygen saturation")
	b.Gone(box)
	b.NoProblems()
}
