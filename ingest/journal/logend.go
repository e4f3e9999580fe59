package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Pebble v2.1.7 drops whatever follows a bad chunk in the newest log as a torn end, unless a later 32 KiB block proves
// that it had been synced, and its count of synced bytes leaves out full blocks (record.LogWriter.flushLoop). A flipped
// bit could thus cut acknowledged readings off, silently. So every batch ends with a mark that says how far the log
// had been synced when it was written, and before Pebble opens the folder the newest log is read here: bad bytes that
// are followed by a batch which knows that the batch before it was synced are damage, not a torn end.
const (
	markMagic = 0x56574a31 // "VWJ1"
	markLen   = 20         // magic u32 · number of this batch u64 · number of the newest synced batch u64, little endian
)

// The chunk formats of Pebble's log (record/record.go): checksum u32 · length u16 · type u8 · log number u32 ·
// payload, within blocks of 32 KiB; types 9 to 12 have a synced offset u64 before the payload. The first log of a new
// database has types 5 to 8, because Pebble creates it before it raises the format.
const (
	walBlock      = 32 << 10
	walHeader     = 11
	walSyncHeader = 19
	walFull       = 5 // then first, middle, last; with empty payload and the next log number: the clean end
	walLast       = 8
	walSyncFull   = 9
	walSyncLast   = 12
)

func appendMark(dst []byte, number, synced uint64) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, markMagic)
	dst = binary.LittleEndian.AppendUint64(dst, number)
	return binary.LittleEndian.AppendUint64(dst, synced)
}

// chunkAt returns the length of the valid chunk at offset at of the log, 0 when there is none, and its mark.
func chunkAt(log []byte, at int, num uint32) (length int, number, synced uint64) {
	if len(log)-at < walHeader || walBlock-at%walBlock < walHeader {
		return 0, 0, 0
	}
	h := log[at:]
	if binary.LittleEndian.Uint32(h[7:]) != num || h[6] < walFull || h[6] > walSyncLast {
		return 0, 0, 0
	}
	header := walHeader
	if h[6] >= walSyncFull {
		header = walSyncHeader
	}
	n := header + int(binary.LittleEndian.Uint16(h[4:]))
	if n > len(h) || at%walBlock+n > walBlock {
		return 0, 0, 0
	}
	// Pebble's checksum is a rotated CRC32C of everything after the length.
	c := crc32.Checksum(h[6:n], castagnoli)
	if (c>>15|c<<17)+0xa282ead8 != binary.LittleEndian.Uint32(h) {
		return 0, 0, 0
	}
	if t := h[6]; t == walFull || t == walLast || t == walSyncFull || t == walSyncLast {
		if p := h[header:n]; len(p) >= markLen {
			if m := p[len(p)-markLen:]; binary.LittleEndian.Uint32(m) == markMagic {
				return n, binary.LittleEndian.Uint64(m[4:]), binary.LittleEndian.Uint64(m[12:])
			}
		}
	}
	return n, 0, 0
}

// checkLog says at which byte the log is damaged, -1 when it is not; a torn end is no damage.
func checkLog(log []byte, num uint32) int {
	at := 0
	for at < len(log) {
		n, _, _ := chunkAt(log, at, num)
		if left := walBlock - at%walBlock; n == 0 && left < walSyncHeader && zero(log[at:min(at+left, len(log))]) {
			n = left // the rest of a block in which no chunk had room
		}
		if n == 0 {
			break
		}
		at += n
	}
	if at >= len(log) || isEOF(log[at:], num) {
		return -1
	}
	// Whatever valid comes after the bad bytes, at any offset.
	var next uint64
	for p := at + 1; p < len(log); p++ {
		n, number, synced := chunkAt(log, p, num)
		if n == 0 {
			continue
		}
		if number != 0 && next == 0 {
			next = number
		}
		if next != 0 && synced >= next-1 && next > 1 {
			return at // the batch before next lies in the bad bytes, and was synced
		}
		p += n - 1
	}
	return -1
}

func isEOF(b []byte, num uint32) bool {
	return len(b) >= walHeader && binary.LittleEndian.Uint32(b) == 0 && binary.LittleEndian.Uint16(b[4:]) == 0 &&
		b[6] == walFull && binary.LittleEndian.Uint32(b[7:]) == num+1
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// checkNewestLog reads the newest log in dir. Older ones were closed, which Pebble insists on.
func checkNewestLog(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("read journal folder: %w", err)
	}
	newest, name := uint64(0), ""
	for _, n := range names {
		stem, ok := strings.CutSuffix(n, ".log")
		if num, err := strconv.ParseUint(stem, 10, 64); ok && err == nil && num >= newest {
			newest, name = num, n
		}
	}
	if name == "" {
		return nil
	}
	f, err := fs.Open(fs.PathJoin(dir, name), vfs.SequentialReadsOption)
	if err != nil {
		return fmt.Errorf("read journal log: %w", err)
	}
	var log []byte
	if st, err := f.Stat(); err == nil {
		log = slices.Grow(log, int(min(st.Size(), 1<<30))+1)
	}
	for err == nil {
		if len(log) == cap(log) {
			log = slices.Grow(log, 1<<20)
		}
		var n int
		n, err = f.Read(log[len(log):cap(log)])
		log = log[:len(log)+n]
	}
	if err == io.EOF {
		err = nil
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("read journal log: %w", err)
	}
	if at := checkLog(log, uint32(newest)); at >= 0 {
		return &DamagedLogError{name, at}
	}
	return nil
}

// DamagedLogError says that the newest log has bad bytes before batches that were synced: readings that were
// acknowledged cannot be read. The journal does not open then, because opening would drop them.
type DamagedLogError struct {
	File string
	At   int // offset in bytes
}

func (e *DamagedLogError) Error() string {
	return fmt.Sprintf("journal log %s is damaged at byte %d, before readings that were acknowledged: keep a copy of the "+
		"data folder, check the disk and restore the last backup", e.File, e.At)
}
