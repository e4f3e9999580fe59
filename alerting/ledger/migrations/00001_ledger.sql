-- The alerts and everything that must change in one step with them: their history, what has to leave the house
-- because of them, and how far the alert monitor has read. Times are microseconds since 1970 UTC, 0 for "not yet".

-- +goose Up

-- Named numbers that only this package moves: seq (last event), cursor (alert monitor), oldest (first event that
-- can still be resumed from), batch (digest of the last batch, so that one told again is known).
CREATE TABLE ledger_counters (
    name  TEXT   PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO ledger_counters (name, value) VALUES ('seq', 0), ('cursor', 0), ('oldest', 1), ('batch', 0);

-- Sequences are only comparable within an epoch; it is made with the database, so a restored or new one is told apart.
CREATE TABLE ledger_epoch (
    epoch TEXT PRIMARY KEY
);

-- body is the alert as the API shows it, and the truth; the columns beside it are what is asked for.
CREATE TABLE ledger_alerts (
    id         TEXT     PRIMARY KEY,
    patient    TEXT     NOT NULL,
    rule       TEXT     NOT NULL,
    state      TEXT     NOT NULL,
    severity   SMALLINT NOT NULL,
    highest    SMALLINT NOT NULL,
    opened_seq BIGINT   NOT NULL UNIQUE,
    body       TEXT     NOT NULL
);
-- The alert's identity is (patient, rule): at most one episode of it is unresolved.
CREATE UNIQUE INDEX ledger_alerts_one_open ON ledger_alerts (patient, rule) WHERE state <> 'resolved';
-- "Everything open", newest first, must not walk through years of resolved alerts.
CREATE INDEX ledger_alerts_open ON ledger_alerts (opened_seq) WHERE state <> 'resolved';
CREATE INDEX ledger_alerts_patient ON ledger_alerts (patient, opened_seq);

-- seq is the feed's sequence. snapshot is the alert as it was right after the transition, for resuming; it is
-- emptied by pruning while the row, the history, stays.
CREATE TABLE ledger_transitions (
    seq         BIGINT   PRIMARY KEY,
    alert_id    TEXT     NOT NULL REFERENCES ledger_alerts (id),
    kind        TEXT     NOT NULL,
    severity    SMALLINT NOT NULL,
    highest     SMALLINT NOT NULL,
    at          BIGINT   NOT NULL,
    actor       TEXT     NOT NULL,
    note        TEXT     NOT NULL,
    outcome     TEXT     NOT NULL,
    until       BIGINT   NOT NULL,
    received_at BIGINT   NOT NULL,
    reading     TEXT     NOT NULL,
    snapshot    TEXT     NOT NULL,
    digest      TEXT     NOT NULL
);
-- digest is of the transition as it was decided: the same decision told twice is recorded once. Time and kind alone
-- would not do, because readings that came in one message are decided at one instant. The history of one alert is
-- read by the index's prefix.
CREATE UNIQUE INDEX ledger_transitions_once ON ledger_transitions (alert_id, digest);

-- Retrospective findings: what a rule says about late data. Later readings of the same day widen the row.
CREATE TABLE ledger_findings (
    patient   TEXT     NOT NULL,
    rule      TEXT     NOT NULL,
    day       TEXT     NOT NULL,
    condition TEXT     NOT NULL,
    severity  SMALLINT NOT NULL,
    title     TEXT     NOT NULL,
    first_at  BIGINT   NOT NULL,
    last_at   BIGINT   NOT NULL,
    readings  BIGINT   NOT NULL,
    worst_id  TEXT     NOT NULL,
    PRIMARY KEY (patient, rule, day)
);

-- What must leave the house. body is fixed here, so that every attempt sends the same bytes under the same id.
CREATE TABLE ledger_outbox (
    hook     TEXT     NOT NULL,
    seq      BIGINT   NOT NULL,
    id       TEXT     NOT NULL UNIQUE,
    alert_id TEXT     NOT NULL,
    type     TEXT     NOT NULL,
    severity SMALLINT NOT NULL,
    body     TEXT     NOT NULL,
    since    BIGINT   NOT NULL,
    attempts BIGINT   NOT NULL,
    next_at  BIGINT   NOT NULL,
    state    TEXT     NOT NULL,
    error    TEXT     NOT NULL,
    done_at  BIGINT   NOT NULL,
    PRIMARY KEY (hook, seq)
);
-- Finding the few rows still to send must not cost more as the delivered ones grow.
CREATE INDEX ledger_outbox_pending ON ledger_outbox (hook, seq) WHERE state = 'pending';
CREATE INDEX ledger_outbox_dead ON ledger_outbox (seq) WHERE state = 'dead';
CREATE INDEX ledger_outbox_done ON ledger_outbox (done_at) WHERE state = 'delivered';

-- Hooks whose receiver answered that it is gone; a disabled hook must stay disabled, and visible, after a restart.
CREATE TABLE ledger_hooks_disabled (
    hook  TEXT   PRIMARY KEY,
    since BIGINT NOT NULL,
    error TEXT   NOT NULL
);

-- An API act that is sent twice with the same key is done once. The events are those with first_seq <= seq <= last_seq.
CREATE TABLE ledger_idempotency (
    principal TEXT   NOT NULL,
    key       TEXT   NOT NULL,
    body_hash TEXT   NOT NULL,
    at        BIGINT NOT NULL,
    first_seq BIGINT NOT NULL,
    last_seq  BIGINT NOT NULL,
    PRIMARY KEY (principal, key)
);
