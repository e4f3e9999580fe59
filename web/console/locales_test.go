package console_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// plurals are the forms that count in each language (CLDR).
var plurals = map[string][]string{"zh-CN": {"other"}, "en": {"one", "other"}}

// hookPrefix marks keys that the server uses and the console does not.
const hookPrefix = "hook."

func catalogue(t *testing.T, lang string) map[string]map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(t), "configs/locales", lang+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "\n  \""); n != len(raw) {
		t.Errorf("%s: %d entries for %d keys: a key stands twice", lang, n, len(raw))
	}
	out := map[string]map[string]string{}
	for k, v := range raw {
		var one string
		forms := map[string]string{}
		if json.Unmarshal(v, &one) == nil {
			forms[""] = one
		} else if err := json.Unmarshal(v, &forms); err != nil {
			t.Fatalf("%s: %s is neither a text nor plural forms", lang, k)
		}
		out[k] = forms
	}
	return out
}

var placeholder = regexp.MustCompile(`\{\w+\}`)

func placeholders(s string) string {
	p := placeholder.FindAllString(s, -1)
	slices.Sort(p)
	return strings.Join(slices.Compact(p), " ")
}

func TestLocales_Agree(t *testing.T) {
	zh, en := catalogue(t, "zh-CN"), catalogue(t, "en")
	for lang, other := range map[string]map[string]map[string]string{"en": zh, "zh-CN": en} {
		mine := map[string]map[string]map[string]string{"en": en, "zh-CN": zh}[lang]
		for k := range other {
			if mine[k] == nil {
				t.Errorf("%s: %s is missing", lang, k)
			}
		}
		for k, forms := range mine {
			if _, plain := forms[""]; !plain {
				if got, want := slices.Sorted(maps.Keys(forms)), plurals[lang]; !slices.Equal(got, want) {
					t.Errorf("%s: %s has the plural forms %q, want %q", lang, k, got, want)
				}
			}
			for form, s := range forms {
				if strings.TrimSpace(s) == "" {
					t.Errorf("%s: %s %s is empty", lang, k, form)
				}
			}
		}
	}
	for k, forms := range en {
		if zh[k] == nil {
			continue
		}
		_, plainEn := forms[""]
		_, plainZh := zh[k][""]
		if plainEn != plainZh {
			t.Errorf("%s counts in one language only", k)
		}
		want := placeholders(strings.Join(slices.Collect(maps.Values(zh[k])), " "))
		for form, s := range forms {
			if got := placeholders(s); got != want {
				t.Errorf("en: %s %s has %q, zh-CN has %q", k, form, got, want)
			}
		}
	}
}

var (
	literal = regexp.MustCompile(`"([a-z]+\.[a-z0-9_]+)"`)
	used    = regexp.MustCompile(`\bt\("([^"]*)"`)
	comment = regexp.MustCompile(`(?m)^\s*(//|\*|/\*).*$`)
)

func TestLocales_AllKeysAreUsedAndThere(t *testing.T) {
	zh := catalogue(t, "zh-CN")
	files, err := filepath.Glob(filepath.Join(root(t), "web/console/src/*.ts"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources: %v", err)
	}
	seen := map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		src := comment.ReplaceAllString(string(b), "")
		for _, m := range literal.FindAllStringSubmatch(src, -1) {
			seen[m[1]] = true
		}
		for _, m := range used.FindAllStringSubmatch(src, -1) {
			if zh[m[1]] == nil {
				t.Errorf("%s: %q is in no catalogue", filepath.Base(f), m[1])
			}
		}
	}
	for k := range zh {
		if !seen[k] && !strings.HasPrefix(k, hookPrefix) {
			t.Errorf("%s is used nowhere", k)
		}
	}
}

// facts G: no alert text makes a diagnosis, and the severities have fixed names.
func TestLocales_WordsOfTheField(t *testing.T) {
	zh := catalogue(t, "zh-CN")
	for k, forms := range zh {
		for _, s := range forms {
			if strings.Contains(s, "诊断") {
				t.Errorf("%s speaks of a diagnosis: %s", k, s)
			}
			if regexp.MustCompile(`\p{Han}[,;:?!]|[,;:?!]\p{Han}`).MatchString(s) {
				t.Errorf("%s has half-width punctuation: %s", k, s)
			}
		}
	}
	for k, want := range map[string]string{"severity.info": "提示", "severity.warning": "预警", "severity.critical": "严重", "severity.emergency": "紧急",
		"act.acknowledge": "确认", "act.snooze": "暂缓", "act.resolve": "解除", "transition.escalated": "升级", "signal.lost": "信号丢失"} {
		if got := zh[k][""]; got != want {
			t.Errorf("%s is %q, want %q", k, got, want)
		}
	}
}
