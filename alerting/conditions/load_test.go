package conditions_test

import (
	"bytes"
	"io/fs"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"vitalwatch/alerting/conditions"
	"vitalwatch/configs"
)

func embedded(t testing.TB) *conditions.Packs {
	t.Helper()
	p, err := conditions.Load("cn", conditions.Source{FS: configs.Conditions()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLoad_EmbeddedPacks(t *testing.T) {
	p := embedded(t)
	if _, err := p.Compile(p.Conditions()); err != nil {
		t.Fatal(err)
	}
}

func TestEmbeddedPacks_PassTheirOwnTests(t *testing.T) {
	files, err := conditions.TestFiles(conditions.Source{Name: "configs/conditions", FS: configs.Conditions()})
	if err != nil {
		t.Fatal(err)
	}
	n, fails, err := conditions.RunTests(embedded(t), files)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fails {
		t.Error(f)
	}
	t.Logf("%d rule tests in %d files", n, len(files))
}

// Every number of every pack is held by its tests: moved by the smallest step of a device, up or down, the pack
// either does not load or fails.
func TestEmbeddedPacks_EveryNumberIsHeldByATest(t *testing.T) {
	if testing.Short() {
		t.Skip("several hundred runs of all rule tests")
	}
	fsys := configs.Conditions()
	files, err := conditions.TestFiles(conditions.Source{FS: fsys})
	if err != nil {
		t.Fatal(err)
	}
	names, err := fs.Glob(fsys, "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	number := regexp.MustCompile(`([\w/%"\[\]]+): (\d+(?:\.\d+)?)([,}])`)
	tried := 0
	for _, name := range names {
		if strings.HasSuffix(name, "_test.yaml") {
			continue
		}
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			t.Fatal(err)
		}
		// The tests of this pack alone must hold it.
		own := slices.DeleteFunc(slices.Clone(files), func(f conditions.File) bool {
			return f.Name != strings.TrimSuffix(name, ".yaml")+"_test.yaml"
		})
		// Loading all packs is most of the work: besides the one that nobody can do without, those that its tests name.
		needed := fstest.MapFS{}
		for _, other := range names {
			pack := strings.TrimSuffix(other, ".yaml")
			if pack != "general" && !slices.ContainsFunc(own, func(f conditions.File) bool { return bytes.Contains(f.Data, []byte(pack)) }) {
				continue
			}
			b, err := fs.ReadFile(fsys, other)
			if err != nil {
				t.Fatal(err)
			}
			needed[other] = &fstest.MapFile{Data: b}
		}
		with := func(data []byte) conditions.Source {
			some := maps.Clone(needed)
			some[name] = &fstest.MapFile{Data: data}
			return conditions.Source{FS: some}
		}
		if packs, err := conditions.Load("cn", with(data)); err != nil {
			t.Fatalf("%s needs other packs: %v", name, err)
		} else if _, fails, err := conditions.RunTests(packs, own); err != nil || len(fails) > 0 {
			t.Fatalf("the tests of %s need other packs: %v %v", name, fails, err)
		}
		for _, m := range number.FindAllSubmatchIndex(data, -1) {
			text := string(data[m[4]:m[5]])
			digits := 0
			if _, frac, ok := strings.Cut(text, "."); ok {
				digits = len(frac)
			}
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range []float64{-1, 1} {
				moved := strconv.FormatFloat(v+d*math.Pow10(-digits), 'f', digits, 64)
				changed := slices.Concat(data[:m[4]], []byte(moved), data[m[5]:])
				tried++
				packs, err := conditions.Load("cn", with(changed))
				if err != nil {
					continue
				}
				if _, fails, err := conditions.RunTests(packs, own); err != nil {
					t.Fatal(err)
				} else if len(fails) == 0 {
					if _, err := conditions.Load("cn", conditions.Source{FS: fsys}, conditions.Source{FS: fstest.MapFS{name: {Data: changed}}}); err != nil {
						continue // beside the others it is a mistake
					}
					line := 1 + bytes.Count(data[:m[0]], []byte("\n"))
					t.Errorf("%s:%d: %s instead of %s breaks no test", name, line, moved, text)
				}
			}
		}
	}
	t.Logf("%d moved numbers", tried)
}
