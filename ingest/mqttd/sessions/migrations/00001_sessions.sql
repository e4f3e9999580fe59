-- What outlives a device's connection: its session, messages down to it, retained topics. Times are microseconds since
-- the epoch, UTC; 0 means not yet, not known or never.

-- +goose Up
-- Written when what it says changes and when the device goes, not when it comes: after a stop that was not clean all
-- away_since are therefore wrong, and forgotten.
CREATE TABLE mqtt_sessions (
    device_id  TEXT   NOT NULL PRIMARY KEY,
    expiry_s   BIGINT NOT NULL,
    away_since BIGINT NOT NULL DEFAULT 0,
    filters    TEXT   NOT NULL DEFAULT '[]', -- JSON: [{"filter","qos","rap","id"}]
    will       BLOB,                         -- a status that is due at will_at unless the device is back
    will_at    BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE mqtt_server (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    clean    INTEGER NOT NULL -- 1: all disconnects of the last run are in mqtt_sessions
);
INSERT INTO mqtt_server (only_row, clean) VALUES (1, 1);

-- seq is the order of delivery. packet_id is not 0 while a QoS 1 delivery waits for its PUBACK. A command is done when
-- it was answered, which may be before the PUBACK.
CREATE TABLE mqtt_messages (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL UNIQUE,
    device_id    TEXT    NOT NULL,
    topic        TEXT    NOT NULL, -- behind down/
    payload      BLOB    NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('waiting', 'sent', 'delivered', 'answered', 'expired', 'failed')),
    packet_id    INTEGER NOT NULL DEFAULT 0,
    created_at   BIGINT  NOT NULL,
    expires_at   BIGINT  NOT NULL DEFAULT 0,
    sent_at      BIGINT  NOT NULL DEFAULT 0, -- first time
    delivered_at BIGINT  NOT NULL DEFAULT 0,
    answered_at  BIGINT  NOT NULL DEFAULT 0,
    result       TEXT    NOT NULL DEFAULT '', -- of the answer
    detail       TEXT    NOT NULL DEFAULT ''  -- of the answer, or why it failed
);
CREATE INDEX mqtt_messages_device ON mqtt_messages (device_id, seq);
CREATE INDEX mqtt_messages_open ON mqtt_messages (device_id, seq) WHERE state IN ('waiting', 'sent');

-- One retained message per topic. delivered is the newest rev that the device has acknowledged.
CREATE TABLE mqtt_retained (
    device_id  TEXT   NOT NULL,
    topic      TEXT   NOT NULL, -- behind down/
    payload    BLOB   NOT NULL,
    rev        BIGINT NOT NULL,
    delivered  BIGINT NOT NULL DEFAULT 0,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (device_id, topic)
);
