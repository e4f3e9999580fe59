-- The last measurement that a device said had failed: shown with the device. Times as in 00001.

-- +goose Up

CREATE TABLE device_faults (
    device_id TEXT   NOT NULL PRIMARY KEY REFERENCES devices (id),
    at        BIGINT NOT NULL,
    indicator TEXT   NOT NULL,
    class     TEXT   NOT NULL,
    code      TEXT   NOT NULL
);
