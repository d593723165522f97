"""The JSON Schemas: what the code generates, and they hold of the vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli
from jsonschema import Draft202012Validator

from registry_spec import SCHEMAS, VECTORS
from registry_spec.cases import CASES, FITS
from registry_spec.schemas import formats, schema, schema_files, write_schemas

REGISTRY = VECTORS / "registry"


def validator(name: str) -> Draft202012Validator:
    loaded = json.loads((SCHEMAS / f"{name}.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(loaded)
    return Draft202012Validator(loaded)


def lines() -> list[dict[str, Any]]:
    files = sorted((REGISTRY / "index").iterdir())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def blob(digest: str) -> Any:
    value = digest.removeprefix("sha256:")
    return json.loads((REGISTRY / "blobs" / "sha256" / value[:2] / value).read_text())


def test_the_committed_schemas_are_what_the_code_generates(tmp_path: Path) -> None:
    committed = {path.name: path.read_bytes() for path in SCHEMAS.iterdir()}
    assert committed == schema_files(), "run: python -m registry_spec schemas"
    assert {path.name for path in write_schemas(tmp_path)} == committed.keys()


@pytest.mark.parametrize("name", formats())
def test_every_schema_has_a_name_and_a_description(name: str) -> None:
    found = schema(name)
    assert found["$id"].endswith(f":{name}")
    assert found["title"]
    assert found["description"]


def test_fields_are_described_by_their_docstrings() -> None:
    assert schema("index-line")["properties"]["yanked"]["description"].startswith("Why")


def test_the_vectors_are_valid() -> None:
    validator("registry").validate(json.loads((REGISTRY / "registry.json").read_text()))
    validator("lock").validate(tomli.loads((VECTORS / "modpkg.lock").read_text()))
    assert len(lines()) == 10
    for line in lines():
        validator("index-line").validate(line)
        validator("release").validate(blob(line["release"]))
        if line["provides"] is not None:
            validator("provides").validate(blob(line["provides"]))
        for digest in line["expects"].values():
            validator("expects").validate(blob(digest))
    for case in FITS:
        validator("provides").validate(case["provides"])
        validator("expects").validate(case["expects"])


def test_every_schema_refusal_is_among_the_invalid_records() -> None:
    """Schemas say less than readers check, and nothing that readers take."""
    refused = [c["why"] for c in CASES["records"] if not validator("release").is_valid(c["input"])]
    assert "nothing in it" in refused
    assert "no such kind" in refused
    assert "a file that climbs" not in refused
