-- +goose Up
-- Up to which journal sequence a bucket has everything. A row per bucket: a server that is pointed at another one
-- starts there from the beginning.
CREATE TABLE influxdb_cursors (
  target TEXT PRIMARY KEY, -- url, organisation and bucket
  seq    BIGINT NOT NULL
);
