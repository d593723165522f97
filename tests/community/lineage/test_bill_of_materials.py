"""Bills of materials: what is in them, that they are of CycloneDX's form, and always the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.cli.test_everywhere import run
from tests.modules import publish, write_module

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def app(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> Path:
    """A locked app on ``words``, which was made from ``letters``, which was made from ``ink``."""
    registry = home / "registry"
    made: list[tuple[str, str]] = [("ink", ""), ("letters", "ink"), ("words", "letters")]
    for name, origin in made:
        built = ""
        if origin:
            made_from = f'{{ name = "{origin}", version = "1.0", relation = "trained" }}'
            built = f"[provenance]\nbuilt-from = [{made_from}]\n"
        folder = write_module(
            tmp_path / name,
            name,
            more=f'{built}[card]\ndatasets = ["{name}-texts"]\n',
        )
        status, _, err = run(capfd, "build", str(folder))
        assert status == 0, err
        assert run(capfd, "publish", str(folder))[0] == 0
    publish(write_module(tmp_path / "more", "more", requires={"words": "*"}), registry)
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nmore = "*"\n')
    monkeypatch.chdir(folder)
    assert run(capfd, "lock")[0] == 0
    return folder


def bill(capfd: Capture, *arguments: str) -> Any:
    status, out, err = run(capfd, "sbom", *arguments)
    assert status == 0, err
    return json.loads(out)


def test_a_bill_has_what_is_inside(app: Path, capfd: Capture) -> None:
    document = bill(capfd)
    components = {one["name"]: one for one in document["components"]}
    assert sorted(components) == ["more", "words"]
    words = components["words"]
    assert words["type"] == "machine-learning-model"
    assert words["purl"] == "pkg:modpkg/words@1.0"
    assert words["licenses"] == [{"expression": "MIT"}]
    assert [one["name"] for one in words["components"]] == ["words-texts"]
    assert {one["name"] for one in words["pedigree"]["ancestors"]} == {"letters", "ink"}
    depends = {one["ref"]: one.get("dependsOn", []) for one in document["dependencies"]}
    assert depends["app"] == [components["more"]["bom-ref"]]
    assert depends[components["more"]["bom-ref"]] == [words["bom-ref"]]


def test_a_bill_is_of_the_form_that_cyclonedx_defines(app: Path, capfd: Capture) -> None:
    text = json.dumps(bill(capfd))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_the_same_lock_gives_the_same_bytes(app: Path, capfd: Capture) -> None:
    first = run(capfd, "sbom")[1]
    assert run(capfd, "sbom", "-o", "bill.json")[0] == 0
    assert (app / "bill.json").read_text() == first


def test_an_ancestor_that_is_not_there_is_listed_as_missing(
    app: Path, home: Path, capfd: Capture
) -> None:
    (home / "registry" / "index" / "ink.jsonl").unlink()
    words = next(one for one in bill(capfd)["components"] if one["name"] == "words")
    ink = next(one for one in words["pedigree"]["ancestors"] if one["name"] == "ink")
    assert any(one["name"] == "modpkg:missing" for one in ink["properties"])
