// Package claimqr draws claim codes as QR pictures. It owns what the picture says and how it looks; codes are made and
// redeemed in devices. Its functions keep no state.
package claimqr

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net/url"

	"github.com/boombuler/barcode/qr"

	"vitalwatch/vitals"
)

// Size of the picture: pixels per module, and the quiet zone in modules (ISO/IEC 18004 asks for four).
const (
	scale = 8
	quiet = 4
)

// Text is what the picture says: vitalwatch:claim?code=…&device=…, with server when it is known, for an app or a gateway
// that then calls POST /api/v1/provision there.
func Text(code string, device vitals.DeviceID, server string) string {
	q := url.Values{"code": {code}, "device": {string(device)}}
	if server != "" {
		q.Set("server", server)
	}
	return "vitalwatch:claim?" + q.Encode()
}

// PNG draws a text of at most some hundred bytes, readable when a quarter of it is dirty (level Q).
func PNG(text string) ([]byte, error) {
	code, err := qr.Encode(text, qr.Q, qr.Auto)
	if err != nil {
		return nil, fmt.Errorf("draw a QR code: %w", err)
	}
	n := code.Bounds().Dx()
	img := image.NewPaletted(image.Rect(0, 0, (n+2*quiet)*scale, (n+2*quiet)*scale), color.Palette{color.White, color.Black})
	for y := range n * scale {
		for x := range n * scale {
			if r, _, _, _ := code.At(x/scale, y/scale).RGBA(); r == 0 {
				img.SetColorIndex(x+quiet*scale, y+quiet*scale, 1)
			}
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return nil, fmt.Errorf("draw a QR code: %w", err)
	}
	return b.Bytes(), nil
}
