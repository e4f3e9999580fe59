-- What an operator asked for on the command line and the server does, because it has the stores open: backup, export,
-- erasure. The rows stay: of an erasure the row is the record that it happened. Times are microseconds since the epoch,
-- UTC, 0 for not yet. No health values anywhere.

-- +goose Up
CREATE TABLE operations (
    id           TEXT   NOT NULL PRIMARY KEY,
    kind         TEXT   NOT NULL,             -- backup, export, erase
    args         TEXT   NOT NULL,             -- JSON
    reason       TEXT   NOT NULL,
    requested_by TEXT   NOT NULL,             -- who ran the command
    requested_at BIGINT NOT NULL,
    state        TEXT   NOT NULL,             -- waiting, running, done, failed
    started_at   BIGINT NOT NULL DEFAULT 0,
    finished_at  BIGINT NOT NULL DEFAULT 0,
    progress     TEXT   NOT NULL DEFAULT '',  -- what going on after a crash needs, JSON
    result       TEXT   NOT NULL DEFAULT '',  -- counts, JSON
    error        TEXT   NOT NULL DEFAULT ''
);
CREATE INDEX operations_open ON operations (requested_at) WHERE state = 'waiting' OR state = 'running';
