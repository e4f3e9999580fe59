package strictyaml_test

import (
	"testing"
	"time"

	"vitalwatch/internal/strictyaml"
)

type file struct {
	A int           `yaml:"a"`
	T time.Duration `yaml:"t"`
	B struct {
		C bool `yaml:"c"`
	} `yaml:"b"`
	L []struct {
		Name string `yaml:"name"`
	} `yaml:"l"`
}

func TestRead_ReportsEverythingAtOnceWithPlaces(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"unknown keys and wrong types", "a: x\nbad: 1\nb:\n  c: 3\n  d: 4\n",
			"f.yaml:1:4: `x` is not a whole number\nf.yaml:2:1: unknown key bad\nf.yaml:4:6: `3` is not true or false\nf.yaml:5:3: unknown key d"},
		{"a time without its unit", "t: 10\n", "f.yaml:1:4: `10` is not a time with its unit, such as 10s or 5m"},
		{"a word where keys belong", "b: x\n", "f.yaml:1:4: `x` does not fit here"},
		{"repeated key", "a: 1\na: 2\n", `f.yaml:2:1: mapping key "a" already defined at line 1`},
		{"empty", "", ""},
		{"only a comment", "# nothing\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var v file
			got := ""
			if err := strictyaml.Read("f.yaml", []byte(c.in), &v).Err(); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestErrorf_PointsAtTheValue(t *testing.T) {
	var v file
	d := strictyaml.Read("f.yaml", []byte("b:\n  c: true\nl:\n  - name: x\n  - name: y\n"), &v)
	d.Errorf([]string{"l", "1", "name"}, "is taken")
	d.Errorf([]string{"b", "missing"}, "is needed")
	want := "f.yaml:2:3: b.missing: is needed\nf.yaml:5:11: l.1.name: is taken"
	if err := d.Err(); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestErrorf_NamesWhatSetTheValueInsteadOfTheFile(t *testing.T) {
	var v file
	d := strictyaml.Read("f.yaml", []byte("b:\n  c: true\nl:\n  - name: x\n"), &v)
	d.SetBy("L", []string{"l"})
	d.Errorf([]string{"l", "0"}, "is unknown")
	d.Errorf([]string{"b", "c"}, "is wrong")
	want := "L: l.0: is unknown\nf.yaml:2:6: b.c: is wrong"
	if err := d.Err(); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("a: 1\nb: {c: true}\n"))
	f.Add([]byte("a: &x [*x]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v file
		_ = strictyaml.Read("f", b, &v).Err()
	})
}
