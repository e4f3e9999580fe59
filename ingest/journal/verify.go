package journal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"vitalwatch/ingest/evidence"
	"vitalwatch/vitals"
)

// Report is what Verify found in a journal without damage.
type Report struct {
	First, Last uint64 // sequences of the oldest and the newest reading kept, 0 when there is none
	Records     int
	Readings    int
	Sealed      uint64 // readings up to here are in the index; the later ones are found in the records at the next start
	Runs        int
	Seen        int // readings in the index
	Quarantined int
	Payload     int64 // bytes in quarantine
	Messages    int   // kept as they came
}

// Verify reads the whole journal in dir, which no server may have open, and checks everything that can be checked:
// the newest log to its end, Pebble's own checksums of every block and log record, the checksum of every record, dense sequences, that every
// reading decodes and is in the index of seen readings, that every run of the index is in order, and that every
// quarantined item has its payload. It changes nothing. The error names the first damage found.
func Verify(dir string) (Report, error) { return VerifyFS(vfs.Default, dir) }

// VerifyFS is Verify on any file system.
func VerifyFS(fs vfs.FS, dir string) (rep Report, err error) {
	if err := checkNewestLog(fs, dir); err != nil {
		return rep, fmt.Errorf("verify journal %s: %w", dir, err)
	}
	var fatal fault
	db, err := pebble.Open(dir, &pebble.Options{
		FS: fs, ReadOnly: true, ErrorIfNotExists: true,
		Logger: &pebbleLogger{zerolog.Nop(), func(f fault) { fatal = f }},
		EventListener: &pebble.EventListener{DataCorruption: func(info pebble.DataCorruptionInfo) {
			fatal = fault{"read", "", info.Details}
		}},
		FormatMajorVersion: pebble.FormatTableFormatV6,
	})
	if err != nil {
		return rep, fmt.Errorf("verify journal %s: %w", dir, err)
	}
	defer func() {
		err = errors.Join(err, db.Close())
		if err == nil && fatal.err != nil {
			err = fmt.Errorf("verify journal: %w", fatal.err)
		}
	}()
	s := newSeen()
	if err := s.load(db); err != nil { // fills in what is not sealed
		return rep, err
	}
	rep.Sealed = s.sealed
	it, err := db.NewIter(nil)
	if err != nil {
		return rep, fmt.Errorf("verify journal: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	v := verifier{rep: &rep, db: db, seen: &s, names: interner{}}
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return rep, fmt.Errorf("verify journal: %w", err)
		}
		if err := v.check(it.Key(), value); err != nil {
			return rep, err
		}
	}
	return rep, errors.Join(it.Error(), s.end())
}

type verifier struct {
	rep   *Report
	db    *pebble.DB
	seen  *seen
	names interner
	rs    []vitals.Reading

	decoder  evidence.Decoder
	messages uint64 // last sequence of the messages so far

	lane   lane // of the run before
	newest vitals.Micros
	inLane bool
}

func (v *verifier) check(key, value []byte) (err error) {
	switch key[0] {
	case kindRecord:
		return v.record(key, value)
	case kindRun:
		return v.run(key, value)
	case kindSingle:
		v.rep.Seen++
		if len(key) != singleKeyLen {
			return errors.New("verify journal: index key of bad length")
		}
	case kindID:
		if len(key) != idKeyLen || len(value) != 0 && len(value) != idValueLen {
			return errors.New("verify journal: id key of bad length")
		}
	case kindQuarantine:
		q, err := decodeQuarantined(key, value)
		if err != nil {
			return err
		}
		v.rep.Quarantined++
		if ok, err := has(v.db, quarantineKey(kindPayload, q.ID)); !ok || err != nil {
			return errors.Join(err, fmt.Errorf("verify journal: quarantined item %d has no payload", q.ID))
		}
	case kindPayload:
		v.rep.Payload += int64(len(value))
	case kindEvidence:
		return v.evidence(key, value)
	case kindPacked:
		if len(value) != 8 {
			return fmt.Errorf("verify journal: %w: bad place of packing", evidence.ErrDamaged)
		}
	case kindSealed: // read by load
	default:
		return fmt.Errorf("verify journal: key of unknown kind %#x: written by another program release", key[0])
	}
	return nil
}

func (v *verifier) record(key, value []byte) (err error) {
	if v.rs, err = decodeRecord(v.rs[:0], key, value, v.names.intern); err != nil {
		return err
	}
	if v.rep.Records == 0 {
		v.rep.First = v.rs[0].Seq
	} else if v.rs[0].Seq != v.rep.Last+1 {
		return &CorruptionError{v.rep.Last + 1, "is missing"}
	}
	v.rep.Records++
	v.rep.Readings += len(v.rs)
	v.rep.Last = v.rs[len(v.rs)-1].Seq
	for i := range v.rs {
		id := identityOf(&v.rs[i])
		m, err := v.seen.mark(v.db, lane{id.device, id.ind})
		if err != nil {
			return err
		}
		if ok, err := v.seen.known(v.db, &id, m); !ok || err != nil {
			return errors.Join(err, &CorruptionError{v.rs[i].Seq, "is not in the index of seen readings"})
		}
	}
	return nil
}

// evidence checks that a block is what was written and that the messages are in order.
func (v *verifier) evidence(key, value []byte) error {
	if len(key) != recordKeyLen {
		return fmt.Errorf("verify journal: %w: bad key", evidence.ErrDamaged)
	}
	first := binary.BigEndian.Uint64(key[1:])
	err := v.decoder.Block(key, first, value, func(e *evidence.Entry) error {
		if e.First <= v.messages {
			return fmt.Errorf("%w: messages are not in order", evidence.ErrDamaged)
		}
		v.messages = e.First + uint64(e.Count) - 1
		v.rep.Messages++
		return nil
	})
	if err != nil {
		return fmt.Errorf("verify journal: messages from sequence %d on: %w", first, err)
	}
	return nil
}

// run checks that a run is in order and lies after the one before it in its lane.
func (v *verifier) run(key, value []byte) error {
	v.rep.Runs++
	if len(key) != runKeyLen {
		return errors.New("verify journal: index key of bad length")
	}
	l := lane{binary.BigEndian.Uint64(key[1:]), vitals.Indicator(key[9])}
	floor, above := v.newest, v.inLane && l == v.lane
	v.lane, v.inLane = l, true
	first := true
	var before vitals.Micros
	bad := false
	err := eachInRun(key, value, func(taken vitals.Micros, _ uint64) bool {
		if first {
			v.newest = taken
		} else if taken >= before {
			bad = true
		}
		if above && taken <= floor {
			bad = true
		}
		first, before = false, taken
		v.rep.Seen++
		return true
	})
	if bad {
		return errors.New("verify journal: index of seen readings is out of order: restore the last backup")
	}
	return err
}
