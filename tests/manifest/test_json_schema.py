"""The JSON Schemas agree with the readers."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli
from hypothesis import given

from modpkg.core.errors import ManifestError
from modpkg.core.records import KINDS
from modpkg.manifest.config import parse_settings
from modpkg.manifest.json_schema import config_schema, manifest_schema
from modpkg.manifest.starter import new_manifest
from tests.command import modpkg
from tests.manifest.strategies import manifests, steady_manifests
from tests.manifest.test_bad_manifests import BAD

TAPLO = Path(sys.executable).parent / "taplo"
MANIFESTS = jsonschema.Draft7Validator(manifest_schema())
CONFIGS = jsonschema.Draft7Validator(config_schema())


def plain(value: Any) -> Any:
    """Return TOML data as a language server gives it to a schema: dates are strings."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


@pytest.mark.parametrize("schema", [manifest_schema(), config_schema()])
def test_they_are_schemas(schema: dict[str, Any]) -> None:
    jsonschema.Draft7Validator.check_schema(schema)
    json.dumps(schema)


@steady_manifests
@given(manifests())
def test_a_sound_manifest_fits(data: dict[str, Any]) -> None:
    assert [error.message for error in MANIFESTS.iter_errors(plain(data))] == []


@pytest.mark.parametrize("kind", ["app", *KINDS])
def test_what_init_writes_fits(kind: str) -> None:
    MANIFESTS.validate(plain(tomli.loads(new_manifest(kind, "thing"))))


STRUCTURAL = (
    "is not a key of",
    "has to be",
    "is missing",
    "which is no ",
    "has neither",
    "belongs",
)
BESIDE_THE_SCHEMA = "the first layer and the one after the last"
"""Compares two values, which a schema cannot."""


@pytest.mark.parametrize(
    "text",
    [
        text
        for text, message in BAD
        if any(part in message for part in STRUCTURAL) and BESIDE_THE_SCHEMA not in message
    ],
)
def test_what_has_a_wrong_key_or_type_does_not_fit(text: str) -> None:
    try:
        data = tomli.loads(text)
    except tomli.TOMLDecodeError:
        pytest.skip("not TOML")
    assert not MANIFESTS.is_valid(plain(data))


def test_a_config() -> None:
    text = (
        '[registry."https://models.example"]\nmirrors = ["file:///srv/m"]\ntoken-env = "T"\n'
        '[registries]\nacme = "https://models.example"\n[store]\nmax-size = "100 GB"\n'
    )
    parse_settings(text, Path("config.toml"))
    CONFIGS.validate(tomli.loads(text))
    for bad in (
        "[stores]\n",
        "[store]\nmax-size = 3\n",
        '[registry."https://x.example"]\nmirror = []\n',
        "[registries]\nacme = 1\n",
    ):
        with pytest.raises(ManifestError):
            parse_settings(bad, Path("config.toml"))
        assert not CONFIGS.is_valid(tomli.loads(bad))


def test_a_language_server_uses_it(tmp_path: Path) -> None:
    """As an editor does: the first line of what ``init`` writes names the schema."""
    modpkg("init", tmp_path, "--kind", "model", "--name", "thing")
    path = tmp_path / "modpkg.toml"

    def check(text: str) -> subprocess.CompletedProcess[str]:
        path.write_text(text)
        return subprocess.run(
            [TAPLO, "check", path], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    sound = path.read_text()
    assert sound.startswith("#:schema ./.modpkg/modpkg.schema.json\n")
    assert check(sound).returncode == 0, check(sound).stderr
    wrong = check(sound.replace('kind = "model"', "kind = 3"))
    assert wrong.returncode != 0
    assert "kind" in wrong.stderr
