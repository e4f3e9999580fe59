package catalogue_test

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode"

	"vitalwatch/configs"
	"vitalwatch/devices/catalogue"
	"vitalwatch/devices/payload"
)

func shipped(t *testing.T) *catalogue.Catalogue {
	t.Helper()
	c, err := catalogue.Load(catalogue.FS{Name: "configs/devices", FS: configs.Devices()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestShipped_IsComplete(t *testing.T) {
	c := shipped(t)
	if n := len(c.Models()); n < 8 {
		t.Errorf("%d models", n)
	}
	for _, m := range c.Models() {
		for _, f := range m.Formats {
			name, _, _ := strings.Cut(f, "/")
			if _, ok := payload.Find(name); !ok {
				t.Errorf("%s: there is no format %s", m.ID, f)
			}
		}
		topics := map[string]bool{}
		for _, s := range m.Guide {
			topics[s.Topic] = true
		}
		for _, needed := range []string{"cleaning", "battery"} {
			if m.Kind != "cgm" && !topics[needed] {
				t.Errorf("%s: its guide says nothing of %s", m.ID, needed)
			}
		}
		if !slices.IsSortedFunc(m.Guide, func(a, b catalogue.Section) int {
			return slices.Index(catalogue.Topics, a.Topic) - slices.Index(catalogue.Topics, b.Topic)
		}) {
			t.Errorf("%s: sections out of order", m.ID)
		}
		for _, name := range append(m.Aliases, m.ID, strings.ToLower(m.ID)) {
			if got, ok := c.Find(name); !ok || got != m {
				t.Errorf("%s is not found as %q", m.ID, name)
			}
		}
	}
	for _, i := range []string{"blood_pressure", "glucose", "spo2", "weight", "temperature", "heart_rate"} {
		if g, ok := c.Guide(i); !ok || len(g.Sections) < 4 {
			t.Errorf("no guide for %s", i)
		}
	}
	if _, ok := c.Find(""); ok {
		t.Error("a device without model is of some model")
	}
}

// What is written for patients does not diagnose, and its Chinese is Chinese: full-width punctuation beside Han characters.
func TestShipped_TextsAreFitForPatients(t *testing.T) {
	c := shipped(t)
	check := func(where, zh string) {
		if strings.Contains(zh, "诊断") || strings.Contains(zh, "确诊") {
			t.Errorf("%s: a guide does not diagnose: %s", where, zh)
		}
		rs := []rune(zh)
		for i, r := range rs {
			if strings.ContainsRune(",;:?!", r) && (i > 0 && unicode.Is(unicode.Han, rs[i-1]) || i+1 < len(rs) && unicode.Is(unicode.Han, rs[i+1])) {
				t.Errorf("%s: half-width %q beside Chinese: %s", where, r, zh)
			}
		}
		if !slices.ContainsFunc(rs, func(r rune) bool { return unicode.Is(unicode.Han, r) }) {
			t.Errorf("%s: no Chinese in %s", where, zh)
		}
	}
	for _, m := range c.Models() {
		for _, s := range m.Guide {
			for _, step := range s.Steps["zh-CN"] {
				check(m.ID+" "+s.Topic, step)
			}
		}
		for _, f := range m.Faults {
			check(m.ID, f.Text["zh-CN"])
		}
		for _, e := range c.ErrorCodes(m.Errors, m.Indicators) {
			check(m.ID+" "+e.Code, e.Means["zh-CN"])
			check(m.ID+" "+e.Code, e.Do["zh-CN"])
		}
	}
}

func TestLoad_ReportsEverythingAtOnceWithPlaces(t *testing.T) {
	const model = `id: "a b"
maker: {zh-CN: 甲, en: A}
name: {en: Only}
kind: toaster
indicators: [mood]
formats: []
limits:
  - {indicator: glucose, component: systolic, from: 5, to: 1, unit: furlong, source: ""}
errors:
  - {code: E1, class: cuff, means: {zh-CN: 一, en: one}, do: {zh-CN: 二}, source: x}
guide:
  - {topic: rest, steps: {zh-CN: [一, 二], en: [one]}}
about: {source: x}
colour: red
`
	_, err := catalogue.Load(catalogue.FS{Name: "own", FS: fstest.MapFS{"bad.yaml": {Data: []byte(model)}, "guides/bad.yaml": {Data: []byte("indicator: glucose\n")}}})
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{"own/bad.yaml:1:5: id:", "own/bad.yaml:3:7: name: there is no text in zh-CN", `own/bad.yaml:4:7: kind: "toaster" is none of`, `own/bad.yaml:5:14: indicators.0: "mood" is no indicator`,
		`own/bad.yaml:8:37: limits.0.component: "systolic" is no component of glucose`, `limits.0.unit: "furlong" is no unit`, "limits.0.to: must be more than from", "limits.0: has no source",
		"errors.0.do: there is no text in en", "guide.0.steps: en must have as many steps as zh-CN", "own/bad.yaml:14:1: unknown key colour", "own/guides/bad.yaml:1:1: sections: is empty", "own/guides/bad.yaml:1:1: title: there is no text in zh-CN"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not reported: %s", want)
		}
	}
	if t.Failed() {
		t.Logf("reported:\n%v", err)
	}
}

func TestLoad_ALaterFolderReplacesAndNamesAreUnique(t *testing.T) {
	model := func(id, alias, en string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(`{id: ` + id + `, maker: {zh-CN: 甲, en: A}, name: {zh-CN: 乙, en: ` + en + `}, aliases: [` + alias + `], kind: scale, indicators: [weight], about: {source: x}}`)}
	}
	first := catalogue.FS{Name: "first", FS: fstest.MapFS{"a.yaml": model("one", "X-1", "Old")}}
	c, err := catalogue.Load(first, catalogue.FS{Name: "second", FS: fstest.MapFS{"b.yaml": model("one", "X-2", "New")}})
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := c.Find("x2"); !ok || m.Name["en"] != "New" || len(c.Models()) != 1 {
		t.Errorf("found %+v", m)
	}
	if _, ok := c.Find("X-1"); ok {
		t.Error("the replaced one is found by its name")
	}
	_, err = catalogue.Load(first, catalogue.FS{Name: "second", FS: fstest.MapFS{"b.yaml": model("two", "x 1", "New")}})
	if err == nil || !strings.Contains(err.Error(), "device models one and two both go by the name") {
		t.Errorf("two models of one name: %v", err)
	}
	_, err = catalogue.Load(catalogue.FS{Name: "first", FS: fstest.MapFS{"a.yaml": model("one", "X-1", "Old"), "b.yaml": model("one", "X-3", "Old")}})
	if err == nil || !strings.Contains(err.Error(), "model one is also in first/a.yaml") {
		t.Errorf("one id twice in a folder: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("id: x\nkind: scale\n"))
	f.Add([]byte("limits: [{indicator: glucose}]\nguide: [{topic: rest}]\nerrors: [{}]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := catalogue.Load(catalogue.FS{Name: "f", FS: fstest.MapFS{"x.yaml": {Data: b}, "guides/x.yaml": {Data: b}}})
		if (c == nil) == (err == nil) {
			t.Fatal("neither or both")
		}
	})
}
