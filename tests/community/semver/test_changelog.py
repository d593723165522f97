"""``modpkg changelog``: what changed, for people and for programs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from modpkg.community.modules.view import ModuleView, view_of_project
from modpkg.community.semver.check import check
from modpkg.core.digests import digest_bytes
from modpkg.core.report import Report, Subject, TestResult, report_bytes
from modpkg.manifest.read import read_manifest
from tests.command import modpkg, modpkg_json, refused
from tests.community.semver.test_check import BASE, base, nudged
from tests.environment.test_licences import licensed
from tests.tiny import floats, publish, publish_talker


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "registry"
    monkeypatch.setenv("MODPKG_REGISTRY", str(folder))
    return folder


def report(version: str, **values: float) -> bytes:
    """A report as ``modpkg test`` writes it, with these values of tests."""
    results = [
        TestResult(
            test=test,
            suite="tiny",
            digest=digest_bytes(test.encode()),
            metric="accuracy",
            better="higher",
            value=value,
            low=0.0,
            high=1.0,
            cases=4,
            at_least=0.5,
            passed=value >= 0.5,
            outcomes=digest_bytes(b""),
            tolerance=0.05,
        )
        for test, value in values.items()
    ]
    subject = Subject("tiny", version, "base")
    return report_bytes(
        Report(subject=subject, composition=digest_bytes(b""), engine="1", results=results)
    )


def test_a_release_changelog_shows_weights_tests_and_licence(
    registry: Path, tmp_path: Path
) -> None:
    publish(base(tmp_path, "1.0.0", report__json=report("1.0.0", a=0.75, b=0.5)), registry)
    more = nudged(BASE, 0.1) | {"extra.weight": floats(random.Random(0), 2, 2)}
    later = base(tmp_path, "1.1.0", more, report__json=report("1.1.0", a=0.8, b=0.48, c=1.0))
    publish(licensed(later, "MIT OR ISC"), registry)
    output = modpkg("changelog", "tiny==1.0.0", "tiny==1.1.0").stdout
    assert output.startswith(
        "# tiny 1.0.0 to 1.1.0\n\ntiny 1.0.0 to 1.1.0 is a major change: tests:"
    )
    assert "- tests: 'b' got worse: passed before, fails now" in output
    assert "- tensors: 1 tensor added: 'extra.weight'" in output
    assert "- values: 157 of 1576 values changed (10.0 %)" in output
    assert "**The licence changed** from MIT to MIT OR ISC." in output
    assert "| 0 | 9 | 65 of 656 | " in output
    assert "| tiny: a | accuracy | 0.75 | 0.8 | better |" in output
    assert "| tiny: b | accuracy | 0.5 | 0.48 | worse |" in output
    assert "| tiny: c | accuracy | - | 1 | new |" in output
    result = modpkg_json("changelog", "tiny==1.0.0", "tiny==1.1.0")
    assert result["check"]["level"] == "major"
    assert [one["layer"] for one in result["layers"]] == [None, 0, 1]
    assert [one["verdict"] for one in result["figures"]] == ["better", "worse", "new"]


def with_report(side: ModuleView, data: bytes) -> ModuleView:
    files = {**side.files, "report.json": digest_bytes(data)}
    return replace(
        side, files=files, read=lambda path: data if path == "report.json" else side.read(path)
    )


def test_tests_that_hold_or_got_worse_decide(tmp_path: Path) -> None:
    before, after = (
        view_of_project(manifest)
        for manifest in (
            read_manifest(base(tmp_path, "1.0.0") / "modpkg.toml"),
            read_manifest(base(tmp_path, "1.0.1", nudged(BASE, 0.1)) / "modpkg.toml"),
        )
        if manifest.module is not None
    )
    for value, level in [(0.75, "patch"), (0.71, "patch"), (0.69, "major"), (0.4, "major")]:
        old, new = report("1.0.0", a=0.75), report("1.0.1", a=value)
        found = check(with_report(before, old), with_report(after, new), published=lambda name: [])
        assert found.level == level
        assert found.tests is not None
        assert found.tests.compared == 1


def test_a_lock_changelog_lists_each_module(registry: Path, tmp_path: Path) -> None:
    publish_talker(registry, tmp_path / "projects")
    app = Path("modpkg.toml")
    for version in ("1.0", "2.0"):
        app.write_text(f'[app]\nname = "app"\n[dependencies]\ntalker = "=={version}"\n')
        modpkg("lock")
        Path("modpkg.lock").rename(f"{version}.lock")
    output = modpkg("changelog", "1.0.lock", "2.0.lock").stdout
    assert "| talker | 1.0 | 2.0 | major |" in output
    assert "| tiny-lora | 1.0 | 2.0 | minor |" in output
    assert "| tiny |" not in output
    assert "## tiny-lora 1.0 to 2.0" in output
    result = modpkg_json("changelog", "1.0.lock", "2.0.lock")["modules"]
    assert [one["name"] for one in result] == ["talker", "tiny-lora"]
    assert "name the same releases" in modpkg("changelog", "1.0.lock", "1.0.lock").stdout
    empty = Path("empty.lock")
    empty.write_text("spec = 1\nrequirements = []\n")
    gone = {
        one["name"]: one["after"] for one in modpkg_json("changelog", "1.0.lock", empty)["modules"]
    }
    assert gone == {"talker": None, "tiny": None, "tiny-lora": None}


def test_changelogs_that_cannot_be_compared_are_refused(registry: Path, tmp_path: Path) -> None:
    publish_talker(registry, tmp_path / "projects")
    message = refused("changelog", "tiny==1.0", "tiny-lora==1.0", status=2)
    assert "'modpkg diff tiny==1.0 tiny-lora==1.0' compares" in message
    assert "There is no lock file a.lock" in refused("changelog", "a.lock", "b.lock", status=2)
    assert "error[M312]" in refused("changelog", "tiny==1.0", "tiny==7")
