package claimqr_test

import (
	"bytes"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vitalwatch/devices/claimqr"
)

const want = "vitalwatch:claim?code=0A1B2-C3D4E&device=cuff-7&server=https%3A%2F%2Fdesk.example"

func picture(t *testing.T) ([]byte, image.Image) {
	t.Helper()
	text := claimqr.Text("0A1B2-C3D4E", "cuff-7", "https://desk.example")
	if text != want {
		t.Fatalf("text %q, want %q", text, want)
	}
	b, err := claimqr.PNG(text)
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return b, img
}

// The shape that every QR code has (ISO/IEC 18004 6.3): a quiet zone, and finder patterns in three corners.
func TestPNG_HasTheShapeOfAQRCode(t *testing.T) {
	_, img := picture(t)
	size := img.Bounds().Dx()
	if size != img.Bounds().Dy() || size%8 != 0 {
		t.Fatalf("%v", img.Bounds())
	}
	n := size/8 - 8
	dark := func(x, y int) bool { // modules from the corner of the code
		r, _, _, _ := img.At((x+4)*8+4, (y+4)*8+4).RGBA()
		return r == 0
	}
	for i := -4; i < n+4; i++ {
		for _, edge := range []int{-4, -1, n, n + 3} {
			if dark(i, edge) || dark(edge, i) {
				t.Fatalf("the quiet zone is dark at %d, %d", i, edge)
			}
		}
	}
	for _, corner := range [][2]int{{0, 0}, {n - 7, 0}, {0, n - 7}} {
		for y := range 7 {
			for x := range 7 {
				ring := min(x, y, 6-x, 6-y)
				if got := dark(corner[0]+x, corner[1]+y); got != (ring != 1) {
					t.Fatalf("finder pattern at %v: module %d, %d dark: %v", corner, x, y, got)
				}
			}
		}
	}
}

func TestPNG_IsReadByAScanner(t *testing.T) {
	zbar, err := exec.LookPath("zbarimg")
	if err != nil {
		t.Skip("skipped TestPNG_IsReadByAScanner: zbarimg is not installed (Debian: zbar-tools)")
	}
	b, _ := picture(t)
	path := filepath.Join(t.TempDir(), "code.png")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(zbar, "--quiet", "--raw", path).Output()
	if err != nil || strings.TrimSpace(string(out)) != want {
		t.Errorf("the scanner reads %q, %v", out, err)
	}
}
