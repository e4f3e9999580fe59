package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
)

// HealthCmd asks a running server how it is; containers and scripts use it, so that no other tool must be there.
type HealthCmd struct {
	Config string        `short:"c" type:"path" placeholder:"FILE" help:"Configuration file that names http.listen."`
	Live   bool          `help:"Ask only whether the process answers (/livez), not whether it is ready."`
	Within time.Duration `default:"5s" help:"How long to wait for the answer."`
}

// Run prints the answer and fails unless it is yes.
func (c *HealthCmd) Run(k *kong.Context) error {
	cfg, err := LoadConfig(c.Config, os.LookupEnv)
	if err != nil {
		return err
	}
	url, err := cfg.ownURL()
	if err != nil {
		return err
	}
	path := "/readyz?verbose"
	if c.Live {
		path = "/livez"
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.Within)
	defer cancel()
	err = askHealth(ctx, url+path, k.Stdout)
	if c.Config == "" && errors.Is(err, syscall.ECONNREFUSED) {
		err = fmt.Errorf("%w; if it runs with a configuration file, name that with -c", err)
	}
	return err
}

// ownURL is where this machine reaches the server's HTTP address.
func (c *Config) ownURL() (string, error) {
	host, port, err := net.SplitHostPort(c.HTTP.Listen)
	if err != nil {
		return "", fmt.Errorf("http.listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "http"
	if c.HTTP.TLS.enabled() {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, port), nil
}

func askHealth(ctx context.Context, url string, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// The certificate is the operator's, for another name than the one this machine uses for itself; nothing is sent.
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 16<<10))
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return notHealthy(res.Status, body)
	}
	_, err = out.Write(body)
	return err
}

// notHealthy says what the server's problem document says, in a line that a person can read.
func notHealthy(status string, body []byte) error {
	var p struct {
		Title  string `json:"title"`
		Errors []struct {
			Location string `json:"location"`
			Message  string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &p) != nil || len(p.Errors) == 0 {
		return fmt.Errorf("the server says %s: %s", status, strings.TrimSpace(string(body)))
	}
	var failing []string
	for _, e := range p.Errors {
		failing = append(failing, e.Location+": "+e.Message)
	}
	return fmt.Errorf("the server says %s: %s", p.Title, strings.Join(failing, "; "))
}

// notifier tells systemd how the server is; without systemd it does nothing.
type notifier struct {
	send  func(state string) (bool, error)
	every time.Duration // 0: no watchdog
	log   zerolog.Logger
}

func newNotifier(log zerolog.Logger) *notifier {
	n := &notifier{send: func(state string) (bool, error) { return daemon.SdNotify(false, state) }, log: log}
	period, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn().Err(err).Msg("the watchdog of systemd is set up wrongly and not used")
		return n
	}
	n.every = period / 3 // two may be late
	return n
}

func (n *notifier) tell(state string) {
	if _, err := n.send(state); err != nil {
		n.log.Warn().Err(err).Msg("systemd cannot be told how the server is")
	}
}

// watch feeds the watchdog as long as turning says that the alert clock turns: a server that no longer judges is
// restarted, one that only waits for its disk or its broker is not.
func (n *notifier) watch(ctx context.Context, turning func() error) error {
	if n.every <= 0 {
		<-ctx.Done()
		return nil
	}
	t := time.NewTicker(n.every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := turning(); err != nil {
				n.log.Error().Err(err).Msg("the watchdog is not fed")
				continue
			}
			n.tell(daemon.SdNotifyWatchdog)
		}
	}
}

// turning says whether a full evaluation cycle has just turned.
func (a *App) turning() error {
	if age := time.Since(a.monitor.LastCycle()); age > cycleWithin {
		return fmt.Errorf("the alert clock has not turned for %v; see the log", age.Truncate(time.Second))
	}
	return nil
}

var errNotRoot = errors.New("only root can give the files to the users of the containers; run it as root, or leave --owners away")
