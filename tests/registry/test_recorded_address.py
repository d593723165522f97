"""Where a registry is, as a lock records it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.manifest.read import parse_manifest
from modpkg.registry.recorded_address import recorded_address, same_place

TOKEN = "ghp_0123456789abcdefABCDEF0123"


@pytest.mark.parametrize(
    ("address", "recorded"),
    [
        ("HTTPS://Models.example:443/acme/", "https://models.example/acme"),
        ("https://models.example/acme?sig=abc#x", "https://models.example/acme"),
        (f"https://models.example/{TOKEN}/acme", "https://models.example/sha256-"),
        ("https://models.example/models-of-the-team-2026", "models-of-the-team-2026"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("file:///srv/models", "/srv/models"),
        ("/srv/models/../models/", "/srv/models"),
    ],
)
def test_what_is_recorded(tmp_path: Path, address: str, recorded: str) -> None:
    manifest = parse_manifest('[app]\nname = "a"\n', tmp_path / "modpkg.toml")
    found = recorded_address(address, manifest)
    assert recorded in found
    assert TOKEN not in found


def test_a_folder_is_recorded_as_the_manifest_names_it(home: Path, tmp_path: Path) -> None:
    text = f"[app]\nname = 'a'\n[registries]\nnear = '../near'\nown = 'https://x.y/{TOKEN}'\n"
    manifest = parse_manifest(text, tmp_path / "app" / "modpkg.toml")
    assert recorded_address(str(tmp_path / "near"), manifest) == "../near"
    assert recorded_address(str(tmp_path / "far"), manifest) == str(tmp_path / "far")
    assert recorded_address(str(home / "registry"), manifest) == "built-in"
    assert recorded_address(f"https://x.y/{TOKEN}", manifest) == f"https://x.y/{TOKEN}"


def test_places_are_compared_and_not_their_spelling(home: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    base = tmp_path / "app"
    assert same_place("../real", str(tmp_path / "link"), base)
    assert same_place("built-in", str(home / "registry"), base)
    assert not same_place("../real", str(tmp_path / "other"), base)
    assert not same_place("https://a.example/x", "https://a.example/y", base)
