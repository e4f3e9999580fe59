-- Devices, their secrets, status and who they measure for. Times are microseconds since the epoch, UTC; 0 means not
-- known or open. rev numbers the changes of the device row, its secrets and bindings, so that another process can
-- read just what is new; status is apart because it changes all the time.

-- +goose Up
CREATE TABLE devices_revision (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    rev      BIGINT  NOT NULL
);
INSERT INTO devices_revision (only_row, rev) VALUES (1, 0);

CREATE TABLE devices (
    id          TEXT   NOT NULL PRIMARY KEY,
    model       TEXT   NOT NULL,
    serial      TEXT   NOT NULL,
    tz          TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    disabled_at BIGINT NOT NULL DEFAULT 0,
    rev         BIGINT NOT NULL
);
CREATE INDEX devices_rev ON devices (rev);

-- Secrets are 256 random bits; hash is their SHA-256 in lower-case hex. Two may be valid at once while a device is
-- moved to a new one. Ended ones stay, to tell when a device was last cut off.
CREATE TABLE device_secrets (
    device_id  TEXT   NOT NULL REFERENCES devices (id),
    hash       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (device_id, hash)
);

-- Who a device (and user slot, 0 for any) measures for, for a period [valid_from, valid_to); valid_from 0 is as far
-- back as the device remembers. Periods of one slot do not overlap; they are never changed but for their end, so that old readings stay with their old owner.
CREATE TABLE device_bindings (
    device_id  TEXT     NOT NULL REFERENCES devices (id),
    user_slot  SMALLINT NOT NULL,
    patient_id TEXT     NOT NULL REFERENCES care_patients (id),
    valid_from BIGINT   NOT NULL,
    valid_to   BIGINT   NOT NULL DEFAULT 0,
    made_at    BIGINT   NOT NULL,
    PRIMARY KEY (device_id, user_slot, valid_from)
);
CREATE INDEX device_bindings_patient ON device_bindings (patient_id);

CREATE TABLE device_status (
    device_id TEXT     NOT NULL PRIMARY KEY REFERENCES devices (id),
    state     TEXT     NOT NULL,
    state_at  BIGINT   NOT NULL,
    battery   SMALLINT NOT NULL,
    firmware  TEXT     NOT NULL,
    last_seen BIGINT   NOT NULL
);
