-- People, their conditions and teams, and personal thresholds. Times are microseconds since the epoch, UTC; 0 means
-- not known or open. rev numbers the changes, so that another process can read just what is new.

-- +goose Up
CREATE TABLE care_revision (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    rev      BIGINT  NOT NULL
);
INSERT INTO care_revision (only_row, rev) VALUES (1, 0);

CREATE TABLE care_patients (
    id         TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL,
    tz         TEXT   NOT NULL,
    language   TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    rev        BIGINT NOT NULL
);
CREATE INDEX care_patients_rev ON care_patients (rev);

-- A condition that was taken away keeps its row: which thresholds were in force at a past time stays answerable.
CREATE TABLE care_conditions (
    patient_id   TEXT   NOT NULL REFERENCES care_patients (id),
    condition_id TEXT   NOT NULL,
    valid_from   BIGINT NOT NULL,
    valid_to     BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (patient_id, condition_id, valid_from)
);

CREATE TABLE care_teams (
    id         TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    rev        BIGINT NOT NULL
);

CREATE TABLE care_patient_teams (
    patient_id TEXT NOT NULL REFERENCES care_patients (id),
    team_id    TEXT NOT NULL REFERENCES care_teams (id),
    PRIMARY KEY (patient_id, team_id)
);
CREATE INDEX care_patient_teams_team ON care_patient_teams (team_id);

-- A person's own threshold: one row per unit, because limits are exact pairs and are never converted (54 mg/dL is
-- 3.0 mmol/L). A new value adds a row and closes the old one; nothing is overwritten.
CREATE TABLE care_overrides (
    patient_id  TEXT             NOT NULL REFERENCES care_patients (id),
    rule_id     TEXT             NOT NULL,
    severity    TEXT             NOT NULL,
    unit        TEXT             NOT NULL,
    value       DOUBLE PRECISION NOT NULL,
    author      TEXT             NOT NULL,
    reason      TEXT             NOT NULL,
    valid_from  BIGINT           NOT NULL,
    valid_until BIGINT           NOT NULL DEFAULT 0,
    PRIMARY KEY (patient_id, rule_id, severity, unit, valid_from)
);
