// Package strictyaml reads YAML that people write: unknown and repeated keys and wrong types are errors, every
// error has file, line and column, and all of them come at once. It owns no schema. Its functions keep no state.
package strictyaml

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Error is one mistake at a place.
type Error struct {
	File         string
	Line, Column int // 1 for the first; 0 when the mistake has no place in the file
	Message      string
}

func (e *Error) Error() string {
	switch {
	case e.Line == 0 && e.File == "":
		return e.Message
	case e.Line == 0:
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Errors is what is wrong with one file or several, in the order of the lines.
type Errors []*Error

func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Document is a decoded file that still knows where its keys stand, so that later checks can point at them.
type Document struct {
	File string
	root *yaml.Node
	errs Errors
	set  map[string]string // by path, what set it instead of the file
}

// ReadFile decodes the file at path into v.
func ReadFile(path string, v any) (*Document, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Read(path, b, v), nil
}

// Read decodes data, called file in messages, into v. Mistakes are collected; Err returns them.
func Read(file string, data []byte, v any) *Document {
	d := &Document{File: file}
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil { // unlike Load, no error for an empty file
		d.add(err)
		return d
	}
	d.root = &root
	if len(root.Content) == 0 {
		return d // an empty file is a file of defaults
	}
	if err := yaml.Load(data, v, yaml.WithKnownFields(), yaml.WithUniqueKeys()); err != nil {
		d.add(err)
	}
	return d
}

func (d *Document) add(err error) {
	var many *yaml.LoadErrors
	if errors.As(err, &many) {
		for _, e := range many.Errors {
			d.errs = append(d.errs, &Error{d.File, e.Mark.Line, e.Mark.Column, plain(e.Message)})
		}
		return
	}
	var one *yaml.LoadError
	if errors.As(err, &one) {
		d.errs = append(d.errs, &Error{d.File, one.Mark.Line, one.Mark.Column, plain(one.Message)})
		return
	}
	d.errs = append(d.errs, &Error{File: d.File, Message: err.Error()})
}

// plain rewords the decoder's Go-minded messages for people who do not write Go.
func plain(msg string) string {
	if key, _, ok := strings.Cut(msg, " not found in type "); ok {
		return strings.Replace(key, "field ", "unknown key ", 1)
	}
	if m := misfit.FindStringSubmatch(msg); m != nil {
		want := map[string]string{"bool": "true or false", "int": "a whole number", "float64": "a number", "string": "text",
			"time.Duration": "a time with its unit, such as 10s or 5m"}[m[2]]
		switch {
		case want != "":
		case strings.HasPrefix(m[2], "[]"):
			want = "a list"
		default:
			return m[1] + " does not fit here"
		}
		return m[1] + " is not " + want
	}
	return msg
}

var misfit = regexp.MustCompile("^cannot construct !!\\w+ (`.*`) into (.+)$")

// SetBy says that the value of a path is not the file's but source's, such as an environment variable's: Errorf names
// that instead of a line.
func (d *Document) SetBy(source string, path []string) {
	if d.set == nil {
		d.set = map[string]string{}
	}
	d.set[strings.Join(path, ".")] = source
}

// Errorf records a mistake at the value found by walking keys (and list indexes written as numbers) from the top;
// where a part of the path is missing, at the deepest part that is there.
func (d *Document) Errorf(path []string, format string, args ...any) {
	e := &Error{File: d.File, Message: strings.Join(path, ".") + ": " + fmt.Sprintf(format, args...)}
	if n := d.find(path); n != nil {
		e.Line, e.Column = n.Line, n.Column
	}
	for i := range path {
		if source, ok := d.set[strings.Join(path[:i+1], ".")]; ok {
			e.File, e.Line, e.Column = source, 0, 0
		}
	}
	d.errs = append(d.errs, e)
}

// Line is where the value of a path stands, that of its deepest part when it is not there; 0 in an empty file.
func (d *Document) Line(path []string) int {
	if n := d.find(path); n != nil {
		return n.Line
	}
	return 0
}

func (d *Document) find(path []string) *yaml.Node {
	if d.root == nil || len(d.root.Content) == 0 {
		return nil
	}
	n := d.root.Content[0]
	for _, p := range path {
		next := (*yaml.Node)(nil)
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == p {
					next = n.Content[i+1]
				}
			}
		case yaml.SequenceNode:
			var i int
			if _, err := fmt.Sscan(p, &i); err == nil && i >= 0 && i < len(n.Content) {
				next = n.Content[i]
			}
		}
		if next == nil {
			break
		}
		n = next
	}
	return n
}

// Err returns all mistakes in the order of the lines, or nil.
func (d *Document) Err() error {
	if len(d.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(d.errs, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return d.errs
}
