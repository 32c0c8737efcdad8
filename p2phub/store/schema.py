"""The tables of the index, as SQLite is told them."""

from __future__ import annotations

SCHEMA = """
CREATE TABLE pack(number INTEGER PRIMARY KEY, size INTEGER NOT NULL);
CREATE TABLE chunk(
    digest BLOB PRIMARY KEY, pack INTEGER NOT NULL REFERENCES pack, offset INTEGER NOT NULL,
    length INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE object(
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, size INTEGER NOT NULL,
    sha256 BLOB NOT NULL, chunk_count INTEGER NOT NULL, state TEXT NOT NULL, kind TEXT NOT NULL,
    path BLOB, target BLOB, stamp BLOB
);
CREATE INDEX object_sha256 ON object(sha256);
CREATE TABLE segment(
    object INTEGER NOT NULL REFERENCES object ON DELETE CASCADE, number INTEGER NOT NULL,
    digest BLOB NOT NULL, first_chunk INTEGER NOT NULL, offset INTEGER NOT NULL,
    chunk_count INTEGER NOT NULL, data_size INTEGER NOT NULL,
    PRIMARY KEY(object, number)
) WITHOUT ROWID;
CREATE INDEX segment_digest ON segment(digest);
CREATE TABLE bits(
    object INTEGER NOT NULL REFERENCES object ON DELETE CASCADE, number INTEGER NOT NULL,
    bits BLOB NOT NULL,
    PRIMARY KEY(object, number)
) WITHOUT ROWID;
CREATE TABLE sample(
    key INTEGER NOT NULL, object INTEGER NOT NULL REFERENCES object ON DELETE CASCADE,
    chunk INTEGER NOT NULL,
    PRIMARY KEY(key, object)
) WITHOUT ROWID;
CREATE TABLE small_file(
    sha256 BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY(sha256, digest)
) WITHOUT ROWID;
CREATE INDEX small_file_digest ON small_file(digest);
CREATE TABLE release(
    manifest BLOB NOT NULL, name TEXT NOT NULL, origin TEXT NOT NULL, path BLOB,
    method TEXT NOT NULL,
    added_s REAL NOT NULL, is_pinned INTEGER NOT NULL, PRIMARY KEY(manifest, name)
) WITHOUT ROWID;
CREATE TABLE lease(
    manifest BLOB NOT NULL, owner TEXT NOT NULL, until_s REAL NOT NULL, PRIMARY KEY(manifest, owner)
) WITHOUT ROWID;
"""

# Made where it is lacking: what an older p2phub of the same format does without.
ADDITIONS = """
CREATE TABLE IF NOT EXISTS doomed(path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS verified(
    object INTEGER PRIMARY KEY REFERENCES object ON DELETE CASCADE, next_segment INTEGER NOT NULL,
    verified_s REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS verified_pack(
    number INTEGER PRIMARY KEY REFERENCES pack ON DELETE CASCADE, verified_s REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS damaged(digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sample_object ON sample(object);
"""
