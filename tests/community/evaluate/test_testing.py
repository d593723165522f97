"""modpkg test, as a person runs it, on tiny models: what runs, what is kept, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.command import modpkg, modpkg_json, refused
from tests.community.tiny import (
    labelled,
    publish_encoder_and_head,
    table,
    texts,
    write_encoder,
    write_head,
)
from tests.modules import write_module
from tests.tiny import publish


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Path:
    publish_encoder_and_head(home / "registry", tmp_path / "projects")
    return home / "registry"


def head_project(folder: Path, projects: Path, more: str = "", wrong: int = 0) -> Path:
    plain = write_head(folder)
    cases = labelled(plain, projects / "encoder-1.0", wrong=wrong)
    return write_head(folder, "own", more=table() + more, files={"tests/moods.jsonl": cases})


def test_a_heads_own_tests_run_on_its_build(registry: Path, tmp_path: Path) -> None:
    folder = head_project(tmp_path / "own", tmp_path / "projects", wrong=3)
    output = modpkg("test", "--junit", "../junit.xml", cwd=folder).stdout
    assert "own 1.0" in output
    assert "passed  moods: accuracy 0.925 (0.8014 to 0.9742), at least 0.9, 40 cases" in output
    report = (folder / "report.json").read_bytes()
    suite = ElementTree.fromstring((tmp_path / "junit.xml").read_text()).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0")

    again = modpkg("test", cwd=folder).stdout
    assert "cached" in again
    assert (folder / "report.json").read_bytes() == report
    modpkg("test", "--fresh", cwd=folder)
    assert (folder / "report.json").read_bytes() == report

    built = modpkg_json("build", cwd=folder)
    assert built["name"] == "own"
    modpkg("publish", cwd=folder)


def test_a_failing_test_is_a_failure_of_the_command(registry: Path, tmp_path: Path) -> None:
    folder = head_project(tmp_path / "own", tmp_path / "projects", wrong=5)
    done = modpkg("test", "--junit", "../junit.xml", cwd=folder, check=False)
    assert done.returncode == 1
    assert "FAILED  moods: accuracy 0.875" in done.stdout
    assert "<failure message=" in (tmp_path / "junit.xml").read_text()


def test_a_report_of_other_content_is_not_built(registry: Path, tmp_path: Path) -> None:
    folder = head_project(tmp_path / "own", tmp_path / "projects", wrong=3)
    modpkg("test", cwd=folder)
    modpkg("build", cwd=folder)
    before = sorted(p.name for p in (folder / "dist").rglob("*"))
    honest = (folder / "report.json").read_text()

    report = json.loads(honest)
    report["composition"] = "sha256:" + "0" * 64
    (folder / "report.json").write_text(json.dumps(report))
    message = refused("build", cwd=folder)
    assert message.startswith("error[M711]")
    assert "is a report of another composition: it has sha256:000" in message

    report = json.loads(honest)
    report["results"][0]["passed"] = False
    (folder / "report.json").write_text(json.dumps(report))
    assert "test 'moods' is marked as failed at 0.925" in refused("build", cwd=folder)

    (folder / "report.json").write_text("{")
    assert refused("build", cwd=folder).startswith("error[M710]")

    (folder / "report.json").write_text(honest)  # of other cases than those that are here now
    with open(folder / "tests" / "moods.jsonl", "a") as file:
        file.write('{"text": "the cat", "label": "good"}\n')
    message = refused("build", cwd=folder)
    assert "is a report of another suite: it has test 'moods' of own with digest sha256:" in message
    assert sorted(p.name for p in (folder / "dist").rglob("*")) == before


def test_a_module_has_to_pass_the_suites_that_it_names(registry: Path, tmp_path: Path) -> None:
    projects = tmp_path / "projects"
    asked = texts(20)
    pairs = [{"text": one, "other": one.upper()} for one in asked]
    suite = write_module(
        projects / "shouting",
        "shouting",
        kind="suite",
        more=table("case", "pairs.csv", "invariance", "at_least = 0.5\n"),
        files={
            "pairs.csv": b"text,other\n"
            + "".join(f"{pair['text']},{pair['other']}\n" for pair in pairs).encode()
        },
    )
    assert "1 test with 20 cases" in modpkg("test", cwd=suite).stdout
    publish(suite, registry)
    folder = head_project(tmp_path / "own", projects, '[suites]\nshouting = ">=1"\n')
    [report] = modpkg_json_of(folder)
    assert [(r["suite"], r["test"]) for r in report["results"]] == [
        ("own", "moods"),
        ("shouting", "case"),
    ]
    modpkg("build", cwd=folder)
    modpkg("publish", cwd=folder)
    # Whoever installs the module gets no suite with it.
    assert modpkg_json("install", "own", "--dry-run")["modules"][0]["name"] == "own"
    assert "shouting" not in str(modpkg_json("install", "own", "--dry-run")["modules"])

    not_one = head_project(tmp_path / "not", projects, '[suites]\nencoder = ">=1"\n')
    message = refused("test", cwd=not_one)
    assert message.startswith("error[M110]" if "depend" in message else "error[M720]")


def test_a_suites_tests_run_on_each_model_that_it_depends_on(
    registry: Path, tmp_path: Path
) -> None:
    suite = write_module(
        tmp_path / "near",
        "near",
        kind="suite",
        requires={"encoder": "*"},
        more=table("near", "pairs.csv", "cosine", "at_least = 0.999\n"),
        files={"pairs.csv": b"text,other\nthe cat,the cat\n"},
    )
    [report] = modpkg_json_of(suite)
    assert report["subject"] == {"name": "encoder", "version": "1.0", "kind": "base"}
    assert [(r["suite"], r["passed"]) for r in report["results"]] == [("near", True)]
    assert not (suite / "report.json").exists()


def modpkg_json_of(folder: Path) -> Any:
    return json.loads(modpkg("test", "--json", cwd=folder, check=False).stdout)["reports"]


def test_an_apps_tests_run_on_its_models(registry: Path, tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / "tests").mkdir(parents=True)
    cases = labelled(tmp_path / "projects" / "plain", tmp_path / "projects" / "encoder-1.0")
    (app / "tests" / "moods.jsonl").write_bytes(cases)
    near = [{"text": one, "other": one} for one in texts(5)]
    lines = "\n".join(json.dumps(pair) for pair in near)
    (app / "tests" / "near.jsonl").write_text(lines)
    (app / "modpkg.toml").write_text(
        '[app]\nname = "mine"\n[dependencies]\nencoder = "*"\nmood = "*"\n'
        '[models.judge]\nbase = "encoder"\nsteps = [{ op = "head", module = "mood" }]\n'
        + table(more='at_least = 1.0\nmodel = "judge"\n')
        + table("near", "tests/near.jsonl", "cosine", 'at_least = 0.999\nmodel = "encoder"\n')
    )
    message = refused("test", cwd=app)
    assert "modpkg.lock" in message
    modpkg("lock", cwd=app)
    reports = modpkg_json_of(app)
    by_name = {report["subject"]["name"]: report for report in reports}
    assert by_name.keys() == {"encoder", "judge"}
    assert by_name["judge"]["subject"]["kind"] == "app"
    assert by_name["judge"]["results"][0]["value"] == 1.0
    assert by_name["encoder"]["results"][0]["value"] == 1.0
    assert not (app / "report.json").exists()
    assert not (app / ".modpkg").exists()  # a test installs nothing


def test_an_installed_models_own_tests_can_be_run(registry: Path, tmp_path: Path) -> None:
    model = write_module(
        tmp_path / "judge",
        "judge",
        kind="model",
        requires={"encoder": "*", "mood": "*"},
        more='[compose]\nbase = "encoder"\nsteps = [{ op = "head", module = "mood" }]\n' + table(),
        files={
            "tests/moods.jsonl": labelled(
                tmp_path / "projects" / "plain", tmp_path / "projects" / "encoder-1.0"
            )
        },
    )
    publish(model, registry)
    modpkg("install", "judge")
    [report] = modpkg_json("test", "judge")["reports"]
    assert report["subject"] == {"name": "judge", "version": "1.0", "kind": "model"}
    assert report["results"][0]["value"] == 1.0
    assert "is not a model that can run" in refused("test", "mood")


def test_errors_are_raised_before_a_model_is_loaded(registry: Path, tmp_path: Path) -> None:
    def error(metric: str, cases: bytes = b'{"text": "the cat", "label": "good"}\n') -> str:
        more = table(cases="tests/c.jsonl", metric=metric, more="")
        folder = write_head(tmp_path / "own", "own", more=more, files={"tests/c.jsonl": cases})
        message = refused("test", cwd=folder)
        assert not (folder / "report.json").exists()
        return message

    assert error("acuracy") == (
        "error[M713]: test 'moods' of own: unknown metric 'acuracy'; did you mean 'accuracy'?"
    )
    assert "metric 'perplexity' needs a causal language model" in error("perplexity")
    assert "label 'Good' is not one of the model's (bad, good)" in error(
        "accuracy", b'{"text": "a", "label": "Good"}\n'
    )


def test_without_tests_there_is_nothing_to_test(registry: Path, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "bare", "2.0")
    assert refused("test", cwd=folder).startswith("error[M719]")


def test_non_finite_outputs_are_an_error(registry: Path, tmp_path: Path) -> None:
    files = {"tests/moods.jsonl": b'{"text": "the cat", "label": "good"}\n'}
    folder = write_head(tmp_path / "own", "own", scale=3e38, more=table(), files=files)
    message = refused("test", cwd=folder)
    assert message.startswith(
        "error[M716]: own gives NaN or infinity in test 'moods' for 'the cat'"
    )
    assert not (folder / "report.json").exists()
