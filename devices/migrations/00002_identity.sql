-- Certificates, one-time claim codes, gateways, the history of what devices said of themselves, and readings that a
-- person gave to somebody by hand. Times as in 00001.

-- +goose Up

-- Client certificates. serial is lower-case hex, without leading zeros. The table is the list of what our own authority
-- issued and, by ended_at, the revocation list; one of another authority has a row only when it was revoked (own = 0,
-- fingerprint and public_key empty). ended_at 0: until not_after. pem lets a lost answer be repeated.
CREATE TABLE device_certificates (
    device_id   TEXT     NOT NULL REFERENCES devices (id),
    serial      TEXT     NOT NULL,
    own         SMALLINT NOT NULL,
    fingerprint TEXT     NOT NULL,
    public_key  TEXT     NOT NULL,
    pem         TEXT     NOT NULL,
    created_at  BIGINT   NOT NULL,
    not_after   BIGINT   NOT NULL,
    ended_at    BIGINT   NOT NULL DEFAULT 0,
    PRIMARY KEY (device_id, serial)
);

-- Claim codes. code_mac is the HMAC-SHA256 of the code under a key that is not in this database: a code has 50 bits
-- only, and a copy of the database alone must not give it away. used_key is the SHA-256 of the public key that it was
-- used for, '' for a secret.
CREATE TABLE device_claims (
    code_mac   TEXT   NOT NULL PRIMARY KEY,
    device_id  TEXT   NOT NULL REFERENCES devices (id),
    made_by    TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at    BIGINT NOT NULL DEFAULT 0,
    used_key   TEXT   NOT NULL DEFAULT ''
);
CREATE INDEX device_claims_device ON device_claims (device_id);
CREATE INDEX device_claims_expires ON device_claims (expires_at);

-- Which gateway may speak for which device, for a period [valid_from, valid_to); 0: open.
CREATE TABLE device_gateways (
    device_id  TEXT   NOT NULL REFERENCES devices (id),
    gateway_id TEXT   NOT NULL REFERENCES devices (id),
    valid_from BIGINT NOT NULL,
    valid_to   BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (device_id, gateway_id, valid_from)
);
CREATE INDEX device_gateways_gateway ON device_gateways (gateway_id);

CREATE TABLE device_status_history (
    id        INTEGER  NOT NULL PRIMARY KEY,
    device_id TEXT     NOT NULL REFERENCES devices (id),
    at        BIGINT   NOT NULL,
    state     TEXT     NOT NULL,
    battery   SMALLINT NOT NULL,
    firmware  TEXT     NOT NULL
);
CREATE INDEX device_status_history_device ON device_status_history (device_id, id);
CREATE INDEX device_status_history_at ON device_status_history (at);

-- Readings whose owner a person has said: what the bindings said was nobody, or not plausible. hash is the content hash
-- of the reading, so that a resend goes the same way and is a duplicate.
CREATE TABLE device_reading_owners (
    device_id   TEXT   NOT NULL,
    taken_at    BIGINT NOT NULL,
    hash        BIGINT NOT NULL,
    patient_id  TEXT   NOT NULL REFERENCES care_patients (id),
    assigned_by TEXT   NOT NULL,
    assigned_at BIGINT NOT NULL,
    PRIMARY KEY (device_id, taken_at, hash)
);
