package main

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
)

// SecretsCmd makes the secrets that the services of docker-compose.yml share, each in a file for each of its readers.
type SecretsCmd struct {
	Dir    string `arg:"" type:"path" help:"Folder to make them in. What is there already stays as it is."`
	Owners bool   `help:"Give each file to the user that its container runs as; needs root."`
}

// secretFile is one secret for one reader.
type secretFile struct {
	path string
	uid  int // of the image's user
	of   string
	make func(secret, old string) (string, error) // from the file's old text; nil: the secret itself
}

// The users of the images: eclipse-mosquitto 1883, influxdb 1000, grafana 472, distroless nonroot 65532.
var secretFiles = []secretFile{
	{path: "influxdb/admin_password", uid: 1000, of: "influxdb_password"},
	{path: "influxdb/admin_token", uid: 1000, of: "influxdb_token"},
	{path: "vitalwatch/influxdb_token", uid: 65532, of: "influxdb_token"},
	{path: "grafana/influxdb_token", uid: 472, of: "influxdb_token"},
	{path: "grafana/admin_password", uid: 472, of: "grafana_password"},
	{path: "vitalwatch/mqtt_password", uid: 65532, of: "mqtt_password"},
	{path: "mosquitto/passwd", uid: 1883, of: "mqtt_password", make: func(s, old string) (string, error) {
		hash, err := mosquittoPassword(s)
		text := "vitalwatch:" + hash + "\n"
		for l := range strings.Lines(old) { // the devices'
			if !strings.HasPrefix(l, "vitalwatch:") {
				text += l
			}
		}
		return text, err
	}},
}

// Run makes what is missing and prints no secret.
func (c *SecretsCmd) Run(k *kong.Context) error {
	if c.Owners && os.Geteuid() != 0 {
		return errNotRoot
	}
	made, err := makeSecrets(c.Dir, c.Owners)
	if err == nil {
		_, err = fmt.Fprintf(k.Stdout, "%d of %d files made in %s; the others were there\n", made, len(secretFiles), c.Dir)
	}
	return err
}

// makeSecrets writes the missing files. A secret that one reader has already is given to the others, too; when only
// its hash is left, it is made anew for all.
func makeSecrets(dir string, owners bool) (made int, err error) {
	known := map[string]string{}
	for _, f := range secretFiles {
		if f.make != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, f.path))
		switch {
		case err == nil && len(b) > 0:
			known[f.of] = string(b)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return 0, fmt.Errorf("read %s: %w", f.path, err)
		}
	}
	fresh := map[string]bool{}
	for _, f := range secretFiles {
		if known[f.of] == "" {
			b := make([]byte, 32)
			rand.Read(b)
			known[f.of], fresh[f.of] = base64.RawURLEncoding.EncodeToString(b), true
		}
		path := filepath.Join(dir, f.path)
		if st, err := os.Stat(path); err == nil && st.Size() > 0 && !fresh[f.of] {
			continue
		}
		text := known[f.of]
		if f.make != nil {
			old, _ := os.ReadFile(path)
			if text, err = f.make(text, string(old)); err != nil {
				return made, err
			}
		}
		uid := -1
		if owners {
			uid = f.uid
		}
		if err := putSecret(path, text, uid); err != nil {
			return made, fmt.Errorf("write %s: %w", f.path, err)
		}
		made++
	}
	return made, nil
}

func putSecret(path, text string, uid int) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Chown(dir, uid, uid); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".new") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(text)
	if err = errors.Join(err, tmp.Chown(uid, uid), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// mosquittoPassword is the hash that mosquitto_passwd of Mosquitto 2.0 writes: PBKDF2 with SHA-512, 101 rounds, 12 bytes
// of salt (apps/mosquitto_passwd/mosquitto_passwd.c, "$7$"). The rounds are few; the secret is 256 random bits.
func mosquittoPassword(secret string) (string, error) {
	const rounds = 101
	salt := make([]byte, 12)
	rand.Read(salt)
	key, err := pbkdf2.Key(sha512.New, secret, salt, rounds, sha512.Size)
	if err != nil {
		return "", err
	}
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("$7$%d$%s$%s", rounds, b64(salt), b64(key)), nil
}
