-- Who may sign in, with what, and who looked at whom. Times are UTC microseconds since 1970, 0 for never.
-- +goose Up
CREATE TABLE web_users (
	name        TEXT PRIMARY KEY,
	hash        TEXT NOT NULL,             -- argon2id, PHC string
	role        TEXT NOT NULL,
	teams       TEXT NOT NULL DEFAULT '[]', -- JSON array of team ids; empty: every patient
	created_at  BIGINT NOT NULL,
	disabled_at BIGINT NOT NULL DEFAULT 0
);

-- The secret itself is shown once and never stored.
CREATE TABLE web_api_keys (
	id           TEXT PRIMARY KEY,
	name         TEXT NOT NULL,
	hash         TEXT NOT NULL,            -- sha-256 of the secret, hex
	role         TEXT NOT NULL,
	created_at   BIGINT NOT NULL,
	expires_at   BIGINT NOT NULL DEFAULT 0,
	last_used_at BIGINT NOT NULL DEFAULT 0,
	revoked_at   BIGINT NOT NULL DEFAULT 0
);

-- hash is of the token in the cookie: who reads the database cannot sign in with it.
CREATE TABLE web_sessions (
	hash       TEXT PRIMARY KEY,
	user_name  TEXT NOT NULL REFERENCES web_users (name),
	created_at BIGINT NOT NULL,
	seen_at    BIGINT NOT NULL,
	expires_at BIGINT NOT NULL
);
CREATE INDEX web_sessions_user ON web_sessions (user_name);

-- Kept at least six months (Cybersecurity Law of the PRC, article 21).
CREATE TABLE web_audit (
	id      INTEGER PRIMARY KEY,
	at      BIGINT NOT NULL,
	actor   TEXT NOT NULL,
	role    TEXT NOT NULL,
	action  TEXT NOT NULL,
	patient TEXT NOT NULL DEFAULT '',
	subject TEXT NOT NULL DEFAULT '',      -- alert, item or account the act was about
	remote  TEXT NOT NULL DEFAULT ''
);
CREATE INDEX web_audit_at ON web_audit (at);
CREATE INDEX web_audit_patient ON web_audit (patient, id);
