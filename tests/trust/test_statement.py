"""Statements: what of a release is signed beside its digest."""

from __future__ import annotations

import json

from modpkg.core.digests import digest_bytes, parse_digest
from modpkg.core.records import Provenance, ReleaseRecord, canonical_json
from modpkg.trust.statement import is_about, parse_statement, release_statement
from tests.raising import raises

BASE = "sha256:" + "cd" * 32


def record(license: str = "MIT") -> ReleaseRecord:
    return ReleaseRecord(
        name="words",
        version="1.0",
        kind="adapter",
        license=license,
        expects={"tiny": BASE},
        manifest={"module": {"name": "words", "version": "1.0"}, "train": {"seed": 7}},
        provenance=Provenance(built_with="modpkg 1"),
    )


def test_it_has_what_the_release_was_built_from() -> None:
    one = record()
    release = parse_digest(digest_bytes(canonical_json(one)))
    statement = parse_statement(release_statement(one, release, "1.0"))
    assert is_about(statement, "words", "1.0", release)
    definition = json.loads(bytes(statement.predicate))["buildDefinition"]  # type: ignore[arg-type]
    assert definition["externalParameters"]["manifest"] == one.manifest
    assert definition["internalParameters"]["provenance"]["built_with"] == "modpkg 1"
    (base,) = definition["resolvedDependencies"]
    assert base == {"name": "tiny", "digest": {"sha256": "cd" * 32}}


def test_it_is_about_these_bytes_alone() -> None:
    one = record()
    release = parse_digest(digest_bytes(canonical_json(one)))
    other = parse_digest(digest_bytes(canonical_json(record("Apache-2.0"))))
    statement = parse_statement(release_statement(one, release, "1.0"))
    assert not is_about(statement, "words", "1.0", other)


def test_another_form_is_none() -> None:
    document = json.loads(release_statement(record(), parse_digest(BASE), "1.0"))
    for change in ({"_type": "https://in-toto.io/Statement/v0.1"}, {"subject": []}, {"_type": 1}):
        with raises("M541"):
            parse_statement(json.dumps(document | change).encode())
