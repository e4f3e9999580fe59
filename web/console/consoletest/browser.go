package consoletest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// Browser is one page in a real Chromium. Its methods fail the test.
type Browser struct {
	T   *testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string
}

// wait bounds every single wait for the page.
const wait = 2 * time.Minute

// Open starts Chromium with a page of the given size, or skips the test where there is none. prefers sets
// navigator.languages.
func Open(t *testing.T, width, height int64, prefers string) *Browser {
	t.Helper()
	exe := os.Getenv("VITALWATCH_CHROMIUM")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); exe == "" && err == nil {
			exe = p
		}
	}
	if exe == "" {
		t.Skip("no chromium in PATH: the browser test is skipped; install Debian's chromium or set VITALWATCH_CHROMIUM")
	}
	alloc, stop := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(exe), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("accept-lang", prefers),
		chromedp.Flag("lang", prefers))...)
	ctx, cancel := chromedp.NewContext(alloc)
	b := &Browser{T: t, ctx: ctx}
	t.Cleanup(func() {
		end, done := context.WithTimeout(ctx, 20*time.Second)
		defer done()
		_ = chromedp.Cancel(end) // waits until the browser has gone, so that its folder can be removed
		cancel()
		stop()
	})
	err := chromedp.Listen(ctx, func(ev any) {
		switch e := ev.(type) {
		case *runtime.EventExceptionThrown:
			text := e.ExceptionDetails.Text
			if x := e.ExceptionDetails.Exception; x != nil {
				text += ": " + x.Description
			}
			b.problem("exception: " + text)
		case *cdplog.EventEntryAdded:
			// Lost connections are part of the journey; everything else that the browser complains about is ours.
			if e.Entry.Level == cdplog.EntryLevelError && e.Entry.Source != cdplog.EntrySourceNetwork && !strings.Contains(e.Entry.Text, "WebSocket") {
				b.problem(string(e.Entry.Source) + ": " + e.Entry.Text)
			}
		}
	})
	if err != nil {
		t.Fatalf("start %s: %v", exe, err)
	}
	if _, err := chromedp.Call(ctx, cdplog.Enable, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	b.Resize(width, height)
	return b
}

func (b *Browser) problem(s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = append(b.problems, s)
}

// NoProblems fails when the page threw, or broke the Content-Security-Policy.
func (b *Browser) NoProblems() {
	b.T.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.problems) > 0 {
		b.T.Errorf("the browser complained:\n%s", strings.Join(b.problems, "\n"))
	}
}

func (b *Browser) run(actions ...chromedp.Action[chromedp.Void]) {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, wait)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.T.Fatalf("browser: %v", err)
	}
}

// Go opens an address.
func (b *Browser) Go(url string) { b.T.Helper(); b.run(chromedp.Navigate(url)) }

// Resize changes the size of the window.
func (b *Browser) Resize(width, height int64) {
	b.T.Helper()
	b.run(chromedp.EmulateViewport(width, height))
}

// Media sets a media feature such as prefers-color-scheme.
func (b *Browser) Media(name, value string) {
	b.T.Helper()
	p := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: name, Value: value}}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, p); err != nil {
		b.T.Fatal(err)
	}
}

// Eval evaluates an expression.
func Eval[T any](b *Browser, expr string) T {
	b.T.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expr))
	if err != nil {
		b.T.Fatalf("evaluate %s: %v", expr, err)
	}
	return v
}

// Until waits until an expression is true.
func (b *Browser) Until(what, expr string) {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, wait+time.Second)
	defer cancel()
	if _, err := chromedp.Run(ctx, chromedp.Poll[chromedp.Void](expr, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(wait))); err != nil {
		b.Shot("failed-" + strings.ReplaceAll(b.T.Name(), "/", "-"))
		b.T.Fatalf("waited for %s: %v\nexpression: %s\npage:\n%s", what, err, expr, Eval[string](b, `document.body.innerText.slice(0, 3000)`))
	}
}

// Text waits until the first element of a selector is visible and contains want.
func (b *Browser) Text(selector, want string) {
	b.T.Helper()
	b.Until(fmt.Sprintf("%q in %s", want, selector), fmt.Sprintf(`[...document.querySelectorAll(%q)].some(e => e.checkVisibility() && e.textContent.includes(%q))`, selector, want))
}

// Toast waits until the page has told something in passing: it may be hidden again before a busy machine looks, but only
// what is told is ever written there.
func (b *Browser) Toast(want string) {
	b.T.Helper()
	b.Until(fmt.Sprintf("%q to be told", want), fmt.Sprintf(`document.querySelector(".toast").textContent.includes(%q)`, want))
}

// Gone waits until no visible element matches.
func (b *Browser) Gone(selector string) {
	b.T.Helper()
	b.Until("no "+selector, fmt.Sprintf(`![...document.querySelectorAll(%q)].some(e => e.checkVisibility())`, selector))
}

// Click clicks with the mouse.
func (b *Browser) Click(selector string) {
	b.T.Helper()
	b.Until(selector, fmt.Sprintf(`document.querySelector(%q)?.checkVisibility()`, selector))
	ctx, cancel := context.WithTimeout(b.ctx, wait)
	defer cancel()
	for {
		err := chromedp.Do(ctx, chromedp.Click(chromedp.CSS(selector)))
		if err == nil {
			return
		}
		// The page drew the element anew between finding and clicking it: nothing was clicked.
		if !strings.Contains(err.Error(), "Could not find node") {
			b.T.Fatalf("click %s: %v", selector, err)
		}
	}
}

// Choose sets a select and tells it.
func (b *Browser) Choose(selector, value string) {
	b.T.Helper()
	b.Until(selector, fmt.Sprintf(`document.querySelector(%q)?.checkVisibility()`, selector))
	Eval[bool](b, fmt.Sprintf(`(() => { const s = document.querySelector(%q); s.value = %q; s.dispatchEvent(new Event("change", {bubbles: true})); return s.value === %q; })()`, selector, value, value))
}

// Keys presses keys where the focus is; Enter, Escape, arrows and Tab by their constants below.
//
// A key goes down together with its character, as on a keyboard. kb sends the two apart: what the first brings about, a
// dialog that closes, could then come before the second, and Enter press the button that has the focus by then.
func (b *Browser) Keys(keys string) {
	b.T.Helper()
	b.run(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		for _, r := range keys {
			es := kb.Encode(r)
			if len(es) == 3 { // down, character, up
				es[0].Text, es[0].UnmodifiedText = es[1].Text, es[1].UnmodifiedText
				es = append(es[:1], es[2])
			}
			for _, e := range es {
				if _, err := cdp.Call(ctx, t, input.DispatchKeyEvent, *e); err != nil {
					return err
				}
			}
		}
		return nil
	}))
}

// Keys that are not letters.
const (
	Enter     = kb.Enter
	Escape    = kb.Escape
	Tab       = kb.Tab
	ArrowDown = kb.ArrowDown
)

// Shot writes a picture of the page into the folder VITALWATCH_SCREENSHOTS, when that is set.
func (b *Browser) Shot(name string) {
	b.T.Helper()
	dir := os.Getenv("VITALWATCH_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.T.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		b.T.Fatal(err)
	}
}

// Target is a running server with a console.
type Target struct {
	URL            string // of the console, through Line
	Name, Password string // a coach's
	Line           *Line
	// Raise makes the server open a new alert; it returns a text that the alert's row will show, such as the
	// patient's id. It is called while the line is cut, too.
	Raise func() string
}

// Journey is what a coach does, on a server that has at least two alerts that nobody acknowledged: read without
// signing in, sign in, acknowledge and resolve by mouse and by keyboard, change the language, live through a cut
// line.
func Journey(t *testing.T, tg Target) {
	b := Open(t, 1440, 900, "en-US")
	b.Go(tg.URL)
	b.Text(".link-state", "Live")
	b.Until("two alerts to acknowledge", `document.querySelectorAll(".row.alert.is-open").length >= 2`)
	b.Text(".patients .row .who", "")

	// Who has not signed in learns why acting is off.
	b.Keys("j")
	b.Keys("a")
	b.Toast("Not logged in")
	b.Click("#login")
	b.Keys(tg.Name + Tab + "wrong" + Enter)
	b.Text("dialog .error", "wrong")
	b.Keys(tg.Password + Enter) // the wrong one is selected and typed over
	b.Text(".user", tg.Name)
	b.Gone("dialog")
	b.Until("alerts after signing in", `document.querySelectorAll(".row.alert.is-open").length >= 2`)

	// By mouse: open, acknowledge with a note, resolve with an outcome.
	first := b.openAlert(0)
	b.Click(row(first) + " a")
	b.Text(".explanation .said", "")
	b.Click(`[data-act="acknowledge"]`)
	b.Text("dialog", "You take charge")
	b.Keys("called at once" + Enter)
	b.Gone("dialog")
	b.Text(".alert-head .badge", "Acknowledged by "+tg.Name)
	b.Text(".history .note", "called at once")
	b.Until("the row to follow", fmt.Sprintf(`document.querySelector(%q)?.classList.contains("is-acknowledged")`, row(first)))
	b.Until("focus to stay with the actions", `document.activeElement?.closest(".detail") !== null`)
	b.Click(`[data-act="resolve"]`)
	b.Text("dialog", "Say how it ended")
	b.Keys(Enter)
	b.Until("an outcome to be demanded", `document.querySelector("dialog select:invalid") !== null`)
	b.Choose("#act-outcome", "handled")
	b.Click(`dialog button[type="submit"]`)
	b.Gone("dialog")
	b.Text(".alert-head .badge", "Resolved by "+tg.Name)
	b.Gone(row(first))

	// By keyboard alone: into the list, acknowledge, resolve.
	b.Keys("h")
	b.Text("h2", "Patients")
	b.Keys("j")
	second := b.openAlert(0)
	b.focusRow(second)
	b.Keys("a")
	b.Text("dialog", "You take charge")
	b.Keys(Escape)
	b.Gone("dialog")
	b.Until("focus to return to the row", fmt.Sprintf(`document.activeElement?.closest(%q) !== null`, row(second)))
	b.Keys("a")
	b.Text("dialog", "You take charge")
	b.Keys(Enter)
	b.Gone("dialog")
	b.Until("the acknowledged row", fmt.Sprintf(`document.querySelector(%q)?.classList.contains("is-acknowledged")`, row(second)))
	b.focusRow(second)
	b.Keys("r")
	b.Text("dialog", "Say how it ended")
	b.Keys(ArrowDown) // the first outcome
	b.Keys(Enter)
	b.Gone("dialog")
	b.Gone(row(second))

	// One switch, both ways; the choice is remembered.
	b.Click("#language")
	b.Text("h2", "警报")
	b.Until("the page's language", `document.documentElement.lang === "zh-CN"`)
	b.Go(tg.URL)
	b.Text("h2", "警报")
	b.Click("#language")
	b.Text("h2", "Alerts")

	// A cut line shows, and what happened meanwhile is there when it is mended.
	b.Text(".link-state", "Live")
	tg.Line.Cut()
	b.Text(".banner", "This page is stale since")
	b.Until("the page to look stale", `document.body.classList.contains("stale") && document.title.includes("Stale")`)
	missed := tg.Raise()
	b.Shot("stale")
	tg.Line.Mend()
	b.Gone(".banner")
	b.Text(".link-state", "Live")
	b.Text(".row.alert", missed)
	b.NoProblems()
}

// Login signs in through the dialog.
func (b *Browser) Login(tg Target) {
	b.T.Helper()
	b.Click("#login")
	b.Keys(tg.Name + Tab + tg.Password + Enter)
	b.Text(".user", tg.Name)
	b.Gone("dialog")
}

func row(id string) string { return fmt.Sprintf(`.row.alert[data-key="%s"]`, id) }

// openAlert returns the id of the n-th row that nobody acknowledged.
func (b *Browser) openAlert(n int) string {
	b.T.Helper()
	b.Until("an alert to acknowledge", fmt.Sprintf(`document.querySelectorAll(".row.alert.is-open").length > %d`, n))
	return Eval[string](b, fmt.Sprintf(`document.querySelectorAll(".row.alert.is-open")[%d].dataset.key`, n))
}

// focusRow walks the list with j and k until the row has the focus, as a person does.
func (b *Browser) focusRow(id string) {
	b.T.Helper()
	b.Keys("j")
	for range 200 {
		step := Eval[int](b, fmt.Sprintf(`(() => { const r = [...document.querySelectorAll(".row.alert")], f = document.activeElement?.closest(".row.alert");
			return Math.sign(r.indexOf(document.querySelector(%q)) - r.indexOf(f)); })()`, row(id)))
		switch step {
		case 0:
			return
		case 1:
			b.Keys("j")
		default:
			b.Keys("k")
		}
	}
	b.T.Fatalf("the row of %s cannot be reached by keyboard", id)
}
