-- Clocks that are known to be wrong by a constant. Times as in 00001; offset_us is the device's time minus the true one.

-- +goose Up

-- Device times in [valid_from, valid_to] are of the wrong clock; known_at is when it became known.
CREATE TABLE device_clocks (
    device_id  TEXT   NOT NULL PRIMARY KEY REFERENCES devices (id),
    offset_us  BIGINT NOT NULL,
    valid_from BIGINT NOT NULL,
    valid_to   BIGINT NOT NULL,
    known_at   BIGINT NOT NULL
);
