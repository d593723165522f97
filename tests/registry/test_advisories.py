"""Advisories: which versions they affect, how they are kept, and ``modpkg audit``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modpkg.core import bounds
from modpkg.core.filenames import REGISTRY_ADVISORIES
from modpkg.registry.advisories import add_advisories, copy_advisories, read_advisories
from modpkg.registry.advisory import concerns, parse_advisory
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.reader import Registry
from tests.command import modpkg, modpkg_json, refused
from tests.modules import publish_collection
from tests.raising import raises
from tests.registry.servers import serve


def document(*events: dict[str, str], name: str = "lib", **more: Any) -> dict[str, Any]:
    affected = {
        "package": {"ecosystem": "modpkg", "name": name},
        "ranges": [{"type": "ECOSYSTEM", "events": [*events]}] if events else [],
    }
    return {
        "schema_version": "1.6.7",
        "id": "ACME-2026-0001",
        "modified": "2026-11-01T10:00:00Z",
        "summary": "The labels of two classes are exchanged",
        "affected": [affected | more.pop("affected", {})],
    } | more


def fixed_in(version: str, *events: dict[str, str], **more: Any) -> list[str] | None:
    advisory = parse_advisory(json.dumps(document(*events, **more)).encode())
    found = concerns(advisory, "lib", version)
    return None if found is None else found.fixed_in


INTRODUCED, FIXED = {"introduced": "0"}, {"fixed": "2.0"}


@pytest.mark.parametrize(
    ("version", "events", "found"),
    [
        ("1.0", [INTRODUCED, FIXED], ["2.0"]),
        ("0.dev1", [FIXED, INTRODUCED], ["2.0"]),
        ("2.0rc1", [INTRODUCED, FIXED], ["2.0"]),
        ("2.0", [INTRODUCED, FIXED], None),
        ("2.0.post1", [INTRODUCED, FIXED], None),
        ("0.9", [{"introduced": "1.0"}, FIXED], None),
        ("1.10", [{"introduced": "1.9"}], []),
        ("3.0", [INTRODUCED, {"last_affected": "3.0.0"}], []),
        ("3.1", [INTRODUCED, {"last_affected": "3.0"}], None),
        ("2.5", [INTRODUCED, FIXED, {"introduced": "2.4"}, {"fixed": "2.6"}], ["2.6"]),
        ("2.3", [INTRODUCED, FIXED, {"introduced": "2.4"}, {"fixed": "2.6"}], None),
        ("4.0", [INTRODUCED, {"limit": "4.0"}], None),
        ("3.9", [INTRODUCED, {"limit": "4.0"}], []),
        ("9", [INTRODUCED, {"limit": "*"}], []),
    ],
)
def test_ranges_are_read_as_the_osv_schema_says(
    version: str, events: list[dict[str, str]], found: list[str] | None
) -> None:
    assert fixed_in(version, *events) == found


def test_listed_versions_other_names_and_other_ecosystems() -> None:
    listed: dict[str, Any] = {"affected": {"versions": ["1.0", "1.5"]}}
    assert fixed_in("1.0.0", **listed) == []
    assert fixed_in("1.1", **listed) is None
    assert fixed_in("1.0", INTRODUCED, name="other") is None
    assert fixed_in("1.0", INTRODUCED, name="LIB") == []
    pypi = {"affected": {"package": {"ecosystem": "PyPI", "name": "lib"}}}
    assert fixed_in("1.0", INTRODUCED, **pypi) is None
    git = {"affected": {"ranges": [{"type": "GIT", "events": [{"introduced": "ab12"}]}]}}
    assert fixed_in("1.0", **git) is None
    assert fixed_in("1.0", INTRODUCED, withdrawn="2026-11-02T00:00:00Z") is None


@pytest.fixture
def registry(home: Path) -> Path:
    for version in ("1.0", "2.0"):
        publish_collection(home / "registry", "lib", version)
    publish_collection(home / "registry", "top", "1.0", {"lib": ">=1"})
    return home / "registry"


def add(registry: Path, *documents: dict[str, Any]) -> None:
    add_advisories(
        FolderPlace(registry), [("a.json", json.dumps(each).encode()) for each in documents]
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "two words"}, "'id'"),
        ({"modified": "yesterday"}, "'modified'"),
        ({"affected": []}, "no package of the ecosystem 'modpkg'"),
        ({"affected": "all"}, "'affected'"),
        ({"details": "x" * 300_000}, "more than"),
        ({"affected": [{"package": {"ecosystem": "modpkg", "name": "a b"}}]}, "M101|module name"),
    ],
)
def test_what_is_no_advisory_is_refused(
    registry: Path, change: dict[str, Any], reason: str
) -> None:
    with raises("M209", match=reason):
        add(registry, document(INTRODUCED) | change)
    with raises("M209", match="is not a version"):
        add(registry, document({"introduced": "one"}))
    with raises("M209", match="2 versions"):
        add(registry, document({"introduced": "1", "fixed": "2"}))
    assert not (registry / REGISTRY_ADVISORIES).exists()


def test_an_advisory_replaces_the_one_before_and_none_that_is_newer(
    registry: Path, tmp_path: Path
) -> None:
    add(registry, document(INTRODUCED, id="B-1"), document(INTRODUCED, id="A-1", more={"x": [1]}))
    lines = (registry / REGISTRY_ADVISORIES).read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["A-1", "B-1"]
    assert json.loads(lines[0])["more"] == {"x": [1]}  # what is not read is kept
    add(registry, document(INTRODUCED, FIXED, id="B-1", modified="2026-11-02T10:00:00Z"))
    with raises("M483", match="2026-11-02"):
        add(registry, document(INTRODUCED, id="B-1"))
    mirror = tmp_path / "mirror"
    publish_collection(mirror, "lib", "1.0")
    assert copy_advisories(Registry(str(registry)), FolderPlace(mirror)) == 2
    assert copy_advisories(Registry(str(registry)), FolderPlace(mirror)) == 0
    assert (mirror / REGISTRY_ADVISORIES).read_bytes() == (
        registry / REGISTRY_ADVISORIES
    ).read_bytes()


def test_a_hostile_file_is_bounded_and_skipped_where_it_is_malformed(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_advisories(Registry(str(registry)), {"lib"}) is None
    add(registry, document(INTRODUCED))
    path = registry / REGISTRY_ADVISORIES
    path.write_bytes(path.read_bytes() + b'{"id":1}\n\xff\n[[[\n\n' + b"[" * 10**6)
    told: list[str] = []
    found = read_advisories(Registry(str(registry), warn=told.append), {"lib"})
    assert [one.id for one in found or ()] == ["ACME-2026-0001"]
    assert "skipped 4 lines" in told[0]
    assert read_advisories(Registry(str(registry)), {"other"}) == []
    monkeypatch.setattr(bounds, "ADVISORIES_VALUES", 3)
    with raises("M327"):
        read_advisories(Registry(str(registry)), {"lib"})
    monkeypatch.setattr(bounds, "ADVISORIES_BYTES", 100)
    with raises("M327"):
        read_advisories(Registry(str(registry)), {"lib"})


def test_audit(registry: Path, tmp_path: Path) -> None:
    Path("modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\ntop = "*"\nlib = "<2"\n')
    assert "M411" in refused("audit")
    modpkg("lock")
    assert "publishes no advisories" in modpkg("audit").stdout
    file = tmp_path / "advisory.json"
    file.write_text(
        json.dumps(
            document(
                INTRODUCED,
                FIXED,
                aliases=["CVE-2026-1"],
                severity=[{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N"}],
                references=[{"type": "ADVISORY", "url": "https://acme.example/1"}],
                summary="bad\x1b[2J",
            )
        )
    )
    assert modpkg_json("registry", "advisory", str(file))["ids"] == ["ACME-2026-0001"]
    assert "Published 0 advisories" in modpkg("registry", "advisory", str(file)).stdout
    done = modpkg("audit", "--json", check=False)
    assert done.returncode == 1
    (found,) = json.loads(done.stdout)["findings"]
    assert (found["name"], found["version"], found["fixed_in"]) == ("lib", "1.0", ["2.0"])
    assert (found["severity"], found["url"]) == ("CVSS:3.1/AV:N", "https://acme.example/1")
    shown = modpkg("audit", check=False)
    assert shown.returncode == 1
    assert "1 advisory for 1 of 2 modules" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "1 ignored" in modpkg("audit", "--ignore", "CVE-2026-1").stdout
    assert "no advisory of that name" in modpkg("audit", "--ignore", "X", check=False).stderr
    assert "ACME" not in modpkg("install").stderr
    Path("modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\ntop = "*"\n')
    modpkg("update")
    assert modpkg("audit").returncode == 0


def test_audit_over_http(registry: Path) -> None:
    add(registry, document(INTRODUCED))
    with serve(registry) as server:
        Path("modpkg.toml").write_text(
            f'[app]\nname = "app"\n[registries]\ndefault = "{server.url}"\n'
            '[dependencies]\nlib = "*"\n'
        )
        modpkg("lock")
        assert modpkg("audit", check=False).returncode == 1
    assert modpkg("audit", "--offline", check=False).returncode == 1  # by the copy
    assert "M302" in refused("audit")
