package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"vitalwatch/web"
)

// UserCmd looks after the people who log in.
type UserCmd struct {
	Add      UserAddCmd      `cmd:"" help:"Add an account; the password comes from --password-file or stdin."`
	List     UserListCmd     `cmd:"" help:"List accounts."`
	Password UserPasswordCmd `cmd:"" help:"Set a new password, which ends all sessions and enables a disabled account."`
	Disable  UserDisableCmd  `cmd:"" help:"Disable an account and end its sessions."`
}

// APIKeyCmd looks after the keys of other programs.
type APIKeyCmd struct {
	Create APIKeyCreateCmd `cmd:"" aliases:"add" help:"Create a key; prints it once, alone on stdout."`
	List   APIKeyListCmd   `cmd:"" help:"List keys."`
	Revoke APIKeyRevokeCmd `cmd:"" help:"Revoke a key by its id."`
}

// withAuth runs f on the accounts of the data folder, beside a running server or without one. adds: f may be the first of
// all, and make the folder.
func withAuth(config string, adds bool, f func(ctx context.Context, a *web.Auth) error) (err error) {
	db, err := openState(config, adds)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	ctx := context.Background()
	a, err := web.OpenAuth(ctx, db)
	if err != nil {
		return err
	}
	return f(ctx, a)
}

// passwordFlags say where a password comes from; never the command line, which other users of the machine can read.
type passwordFlags struct {
	PasswordFile string `type:"path" placeholder:"FILE" help:"File whose first line is the password; without it, it is read from stdin."`
}

func (p *passwordFlags) read(stderr io.Writer) (string, error) {
	in := os.Stdin
	if p.PasswordFile != "" {
		f, err := os.Open(p.PasswordFile)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		defer f.Close()
		in = f
	} else if st, err := in.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
		// The terminal shows what is typed: say so, and how to avoid it.
		fmt.Fprint(stderr, "Password (it will be visible; use --password-file or a pipe to avoid that): ")
	}
	line, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if err == io.EOF && line == "" && in == os.Stdin {
		fmt.Fprintln(stderr) // ends the line of the question
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("no password came: put it in a file and pass --password-file, or pipe it in")
	}
	return line, nil
}

// UserAddCmd adds an account.
type UserAddCmd struct {
	Config string   `short:"c" type:"path" placeholder:"FILE" help:"Configuration file, as for serve."`
	Name   string   `arg:"" help:"Login name."`
	Role   string   `default:"coach" enum:"admin,coach,service,viewer" help:"admin, coach, service or viewer."`
	Team   []string `placeholder:"ID" help:"Limit to the patients of these teams; without it all patients."`
	passwordFlags
}

// Run adds it.
func (c *UserAddCmd) Run(k *kong.Context) error {
	password, err := c.read(k.Stderr)
	if err != nil {
		return err
	}
	return withAuth(c.Config, true, func(ctx context.Context, a *web.Auth) error {
		if err := a.CreateUser(ctx, c.Name, password, web.Role(c.Role), c.Team); err != nil {
			return fmt.Errorf("add user: %w", err)
		}
		fmt.Fprintf(k.Stdout, "added %s (%s)\n", c.Name, c.Role)
		return nil
	})
}

// UserListCmd lists accounts.
type UserListCmd struct {
	Config string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file, as for serve."`
}

// Run prints a table.
func (c *UserListCmd) Run(k *kong.Context) error {
	return withAuth(c.Config, false, func(ctx context.Context, a *web.Auth) error {
		users, err := a.ListUsers(ctx)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(k.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tROLE\tTEAMS\tCREATED\tSTATE")
		for _, u := range users {
			teams, state := strings.Join(u.Teams, ","), "active"
			if teams == "" {
				teams = "all"
			}
			if u.Disabled {
				state = "disabled"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", u.Name, u.Role, teams, day(u.Created), state)
		}
		return w.Flush()
	})
}

// day is a date in a table, "-" for never.
func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04Z")
}

// UserPasswordCmd sets a password.
type UserPasswordCmd struct {
	Config string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file, as for serve."`
	Name   string `arg:"" help:"Login name."`
	passwordFlags
}

// Run sets it.
func (c *UserPasswordCmd) Run(k *kong.Context) error {
	password, err := c.read(k.Stderr)
	if err != nil {
		return err
	}
	return withAuth(c.Config, false, func(ctx context.Context, a *web.Auth) error {
		err := a.SetPassword(ctx, c.Name, password)
		if errors.Is(err, web.ErrNoAccount) {
			return fmt.Errorf("set password: no account has the name %s; see: vitalwatch user list", c.Name)
		}
		if err != nil {
			return fmt.Errorf("set password: %w", err)
		}
		fmt.Fprintf(k.Stdout, "password of %s set; all its sessions have ended\n", c.Name)
		return nil
	})
}

// UserDisableCmd disables an account.
type UserDisableCmd struct {
	Config string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file, as for serve."`
	Name   string `arg:"" help:"Login name."`
}

// Run disables it.
func (c *UserDisableCmd) Run(k *kong.Context) error {
	return withAuth(c.Config, false, func(ctx context.Context, a *web.Auth) error {
		err := a.DisableUser(ctx, c.Name)
		if errors.Is(err, web.ErrNoAccount) {
			return fmt.Errorf("disable user: no active account has the name %s; see: vitalwatch user list", c.Name)
		}
		if err != nil {
			return fmt.Errorf("disable user: %w", err)
		}
		fmt.Fprintf(k.Stdout, "disabled %s; open feeds end within two minutes\n", c.Name)
		return nil
	})
}

// APIKeyCreateCmd creates a key.
type APIKeyCreateCmd struct {
	Config  string        `short:"c" type:"path" placeholder:"FILE" help:"Configuration file, as for serve."`
	Name    string        `required:"" help:"What the key is for; it stands in the record of acts."`
	Role    string        `required:"" enum:"admin,coach,service,viewer" help:"admin, coach, service or viewer."`
	Expires time.Duration `placeholder:"DURATION" help:"Valid for so long, such as 720h; without it until revoked."`
}

// Run prints the key, once.
func (c *APIKeyCreateCmd) Run(k *kong.Context) error {
	return withAuth(c.Config, true, func(ctx context.Context, a *web.Auth) error {
		key, err := a.CreateKey(ctx, c.Name, web.Role(c.Role), c.Expires)
		if err != nil {
			return fmt.Errorf("create key: %w", err)
		}
		_, err = fmt.Fprintln(k.Stdout, key)
		return err
	})
}

// APIKeyListCmd lists keys without their secrets.
type APIKeyListCmd struct {
	Config string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file, as for serve."`
}

// Run prints a table.
func (c *APIKeyListCmd) Run(k *kong.Context) error {
	return withAuth(c.Config, false, func(ctx context.Context, a *web.Auth) error {
		keys, err := a.ListKeys(ctx)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(k.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tNAME\tROLE\tCREATED\tEXPIRES\tLAST USED\tSTATE")
		for _, key := range keys {
			state := "active"
			switch {
			case key.Revoked:
				state = "revoked"
			case !key.Expires.IsZero() && !time.Now().Before(key.Expires):
				state = "expired"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", key.ID, key.Name, key.Role, day(key.Created), day(key.Expires), day(key.LastUsed), state)
		}
		return w.Flush()
	})
}

// APIKeyRevokeCmd revokes a key.
type APIKeyRevokeCmd struct {
	Config string `short:"c" type:"path" placeholder:"FILE" help:"Configuration file, as for serve."`
	ID     string `arg:"" help:"The key's id, the part between vw_ and the next _."`
}

// Run revokes it.
func (c *APIKeyRevokeCmd) Run(k *kong.Context) error {
	return withAuth(c.Config, false, func(ctx context.Context, a *web.Auth) error {
		err := a.RevokeKey(ctx, c.ID)
		if errors.Is(err, web.ErrNoAccount) {
			return fmt.Errorf("revoke key: no active key has the id %s; see: vitalwatch apikey list", c.ID)
		}
		if err != nil {
			return fmt.Errorf("revoke key: %w", err)
		}
		fmt.Fprintf(k.Stdout, "revoked %s; open feeds end within two minutes\n", c.ID)
		return nil
	})
}
