"""What testing, vetting and bisecting say to do works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modpkg.community.evaluate import metrics
from modpkg.community.evaluate.protocol import Measurement
from tests import tiny
from tests.e2e.remedies import Run, fails, remedy_of, works
from tests.modules import publish_collection, write_module
from tests.raising import raises

CASES = '{"text": "the cat", "expected": "the dog"}\n'


@pytest.fixture
def suite(registry: Path) -> Path:
    """A suite with one test, which is checked without a model."""
    more = '[[tests]]\nname = "t"\ncases = "c.jsonl"\nmetric = "exact_match"\nat_least = 0.5\n'
    folder = write_module(Path("suite").absolute(), "s", kind="suite", more=more)
    (folder / "c.jsonl").touch()
    return folder


def test_m712_to_m714_of_a_suite(suite: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    check = ["-C", str(suite), "test"]
    assert "it has no cases" in fails(run, "M712", *check)
    (suite / "c.jsonl").write_text(CASES)
    manifest = suite / "modpkg.toml"
    right = manifest.read_text()
    manifest.write_text(right.replace("exact_match", "exact_mach"))
    assert "did you mean 'exact_match'?" in fails(run, "M713", *check)
    manifest.write_text(right)
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "find", lambda *arguments: "not a metric")
        assert "is not a Metric" in fails(run, "M714", *check)
    works(run, *check)


def test_m719_of_nothing_to_test(registry: Path, run: Run) -> None:
    works(run, "lock")
    assert "has no model with [[tests]]" in fails(run, "M719", "test")


def test_m715_of_another_kind_of_model(tmp_path: Path) -> None:
    from modpkg.community.evaluate.measure import measure  # torch

    model: Any = SimpleNamespace(name="tiny", has_output=lambda output: False)
    (tmp_path / "c.jsonl").write_text(CASES)
    request = Measurement(
        folder="",
        metric="exact_match",
        test="t",
        cases=str(tmp_path / "c.jsonl"),
        label="c.jsonl",
        seed=0,
    )
    with raises("M715", match="which tiny is not; choose a metric that fits its task"):
        measure(model, request, lambda count: None, lambda count: None)


def test_m710_and_m711_of_a_report(registry: Path, run: Run) -> None:
    folder = tiny.write_base(Path("new"), "3.0")
    report = folder / "report.json"
    report.write_text("{")
    assert remedy_of(fails(run, "M710", "build", folder)) == ["test"]
    subject = {"name": "tiny", "version": "3.0", "kind": "base"}
    other = {"composition": "sha256:" + "0" * 64, "engine": "0", "results": [], "subject": subject}
    report.write_text(json.dumps(other))
    text = fails(run, "M711", "build", folder)
    assert "run 'modpkg test' again, or remove the file" in text
    report.unlink()
    works(run, "build", folder)


def test_m721_of_what_is_no_release(registry: Path, tmp_path: Path, run: Run) -> None:
    assert "NAME==VERSION" in fails(run, "M721", "vet", "tiny")
    (tmp_path / "empty").mkdir()
    assert "neither a modpkg.toml nor a built release" in fails(
        run, "M721", "vet", tmp_path / "empty"
    )
    assert run("vet", "tiny==1.0")[0] == 3  # nothing is tested, so a person decides


# Bisecting ----------------------------------------------------------------------------------


@pytest.fixture
def locks(registry: Path, run: Run) -> Path:
    """An app whose old.lock has m 1.0, and its modpkg.lock m 2.0."""
    publish_collection(registry, "m", "1.0")
    publish_collection(registry, "m", "2.0")
    app = Path("modpkg.toml")
    app.write_text('[app]\nname = "app"\n[dependencies]\nm = "==1.0"\n')
    works(run, "lock")
    shutil.copy("modpkg.lock", "old.lock")
    app.write_text('[app]\nname = "app"\n[dependencies]\nm = "*"\n')
    works(run, "lock", "--upgrade")
    return app


def test_m790_to_m794_and_m796_of_a_search(locks: Path, run: Run, tmp_path: Path) -> None:
    def bisect(script: str, *options: str, old: str = "old.lock") -> list[str]:
        return ["bisect", *options, old, "modpkg.lock", "--", "sh", "-c", script]

    has_old = 'grep -q "1\\.0" "$MODPKG_PROJECT/modpkg.lock"'
    assert "name two locks" in fails(run, "M790", *bisect("true", old="modpkg.lock"))
    assert "no later change is to blame" in fails(run, "M791", *bisect("exit 7"))
    assert "add --repeat" in fails(run, "M792", *bisect("true"))
    assert "could not be with" in fails(run, "M793", *bisect("exit 125"))
    text = fails(run, "M794", *bisect(f"{has_old} || kill -SEGV $$"))
    assert "run the same command again" in text
    flaky = f'echo x >> "{tmp_path}/runs"; test $(wc -l < "{tmp_path}/runs") -ne 2'
    assert "Make it deterministic" in fails(run, "M796", *bisect(flaky, "--repeat", "3"))
    works(run, *bisect(has_old))


def test_m795_uses_the_registry_of_the_locks(
    locks: Path, registry: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other" / "registry"
    for version in ("1.0", "2.0"):
        publish_collection(other, "m", version, requires={"several": "*"})
    script = 'grep -q "1\\.0" "$MODPKG_PROJECT/modpkg.lock"'
    command = ["bisect", "old.lock", "modpkg.lock", "--", "sh", "-c", script]
    monkeypatch.setenv("MODPKG_REGISTRY", str(other))
    assert "use the registry that it was locked from" in fails(run, "M795", *command)
    monkeypatch.setenv("MODPKG_REGISTRY", str(registry))
    works(run, *command)


def test_m797_runs_the_command_again(locks: Path, registry: Path, run: Run) -> None:
    publish_collection(registry, "m", "3.0")
    script = f"cd {Path.cwd()}; test -e again || {{ touch again; echo >> modpkg.toml; }}"
    assert "Run the command again" in fails(run, "M797", "update", "--test", script)
    works(run, "update", "--test", script)
