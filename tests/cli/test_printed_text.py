"""What a registry says is printed as text, never as what a terminal obeys."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from tests import tiny
from tests.cli.test_everywhere import run

ESCAPE = "\x1b]0;owned\x07\x1b[2J"


@pytest.fixture
def index(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    app = tmp_path / "app"
    app.mkdir()
    (app / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\ntiny = "*"\n')
    monkeypatch.chdir(app)
    return home / "registry" / "index" / "tiny.jsonl"


@pytest.mark.parametrize("key", ["yanked", "published"])
@pytest.mark.parametrize("text", [ESCAPE, "fine\nerror[M401]: forged", "\u202eevil"])
def test_a_text_of_an_index_that_is_not_clean_is_written_out(
    index: Path, key: str, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    line = json.loads(index.read_text())
    index.write_bytes(msgspec.json.encode({**line, key: text}) + b"\n")
    status, out, err = run(capfd, "lock")
    assert status == (key == "yanked")
    assert f"tiny.jsonl:1: its '{key}' has the character U+" in err
    for printed in (*out.splitlines(), *err.splitlines()):
        assert printed.isprintable()
    assert not any(printed.startswith("error[M401]: forged") for printed in err.splitlines())


def test_requirements_and_names_of_an_index_cannot_reach_the_terminal(
    index: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = json.loads(index.read_text())
    for changed in (
        {"requires": [f"x{ESCAPE}>=1"]},
        {"requires_modpkg": f">=99{ESCAPE}"},
        {"kind": ESCAPE},
        {"version": f"1{ESCAPE}"},
        {"extras": {ESCAPE: []}},
    ):
        index.write_bytes(msgspec.json.encode({**line, **changed}) + b"\n")
        for arguments in (["lock"], ["lock", "--json"], ["outdated"], ["why-not", "tiny"]):
            _, out, err = run(capfd, *arguments)
            assert all(text.isprintable() for text in (out + err).splitlines())


def test_a_reason_is_one_line(index: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capfd, "yank", "tiny==1.0.0", "--reason", "bad\nline")
    assert (status, "error[M901]" in err) == (2, True)
