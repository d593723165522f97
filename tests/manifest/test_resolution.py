"""``[constraints]``, ``[overrides]``, ``[resolution]`` and cut-offs."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from modpkg.core.names import specifier_text
from modpkg.manifest.cutoff import parse_cutoff
from modpkg.manifest.normal import normal_form
from modpkg.manifest.read import parse_manifest
from tests.raising import raises

NOW = datetime(2026, 3, 31, 12, 30, 15, 999, tzinfo=timezone.utc)
TEXT = """\
[module]
name = "m"
version = "1.0"
kind = "collection"
license = "MIT"
requires-modpkg = "<99, >=0.1"

[constraints]
Some_Base = "<2"

[overrides]
lib = "^2.1"
a = "*"

[resolution]
strategy = "lowest-direct"
prereleases = ["Z", "b_c", "z"]
exclude-newer = 2026-01-01
exclude-newer-package = { Lib = false, a = "2026-02-03T04:05:06+01:00" }
"""


def test_all_of_it_is_read_and_normal() -> None:
    manifest = parse_manifest(TEXT, Path("modpkg.toml"))
    assert manifest.requires_modpkg == ">=0.1,<99"
    shown = [
        [(bound.name, specifier_text(bound.requirement.specifier), bound.where) for bound in bounds]
        for bounds in (manifest.constraints, manifest.overrides)
    ]
    assert shown == [
        [("some-base", "<2", "modpkg.toml:9")],
        [("a", "", "modpkg.toml:13"), ("lib", ">=2.1,<3", "modpkg.toml:12")],
    ]
    resolution = manifest.resolution
    assert resolution.strategy == "lowest-direct"
    assert resolution.prereleases == ("b-c", "z")
    assert resolution.exclude_newer is not None
    assert resolution.exclude_newer.text == "2026-01-01T00:00:00Z"
    own = {
        name: cutoff and cutoff.text for name, cutoff in resolution.exclude_newer_package.items()
    }
    assert own == {"a": "2026-02-03T03:05:06Z", "lib": None}


def test_project_settings_are_not_published() -> None:
    form = normal_form(parse_manifest(TEXT, Path("modpkg.toml")))
    assert form == {
        "module": {
            "name": "m",
            "version": "1.0",
            "kind": "collection",
            "license": "MIT",
            "requires-modpkg": ">=0.1,<99",
        }
    }


@pytest.mark.parametrize(
    ("text", "normal", "back"),
    [
        ("7 days", "7 days", timedelta(days=7)),
        ("1 week", "7 days", timedelta(days=7)),
        ("1 day", "1 day", timedelta(days=1)),
        ("36hours", "36 hours", timedelta(hours=36)),
        ("90 minutes", "90 minutes", timedelta(minutes=90)),
        ("0 days", "0 days", timedelta()),
    ],
)
def test_a_span_is_counted_back_from_now(text: str, normal: str, back: timedelta) -> None:
    cutoff = parse_cutoff(text)
    assert cutoff.text == normal
    assert parse_cutoff(normal) == cutoff
    assert cutoff.at(NOW) == NOW.replace(microsecond=0) - back


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("2026-01-01", "2026-01-01T00:00:00Z"),
        ("2026-01-01T10:00", "2026-01-01T10:00:00Z"),
        ("2026-01-01 10:00:01.25-01:30", "2026-01-01T11:30:01Z"),
        ("2026-01-01t10:00:00z", "2026-01-01T10:00:00Z"),
    ],
)
def test_a_time_without_zone_is_utc(text: str, normal: str) -> None:
    cutoff = parse_cutoff(text)
    assert cutoff.text == normal
    assert parse_cutoff(normal) == cutoff
    assert cutoff.at(NOW) == cutoff.moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "days",
        "-7 days",
        "7 months",
        "999999 days",
        "2026-13-01",
        "2026-01-01T25:00",
        "0001-01-01T00:00+05:00",
        "2026-01-01Z",
        "tomorrow",
        "٧ days",
    ],
)
def test_nothing_else_is_a_cutoff(text: str) -> None:
    with raises("M109", match="is not a cut-off: write a date like"):
        parse_cutoff(text)
