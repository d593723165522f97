"""The commands of review, at a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modpkg.registry.candidates import read_thread
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from tests.changing import numbers, write
from tests.cli.test_everywhere import run
from tests.server.publisher import built

TENSORS = numbers("a", "b")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def registry(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOGNAME", "ada")
    publish(home / "registry", "1.0")
    monkeypatch.chdir(home)
    return home / "registry"


def publish(registry: Path, version: str, **more: Any) -> None:
    folder = write(registry.parent / f"words-{version}", TENSORS | more, "words", version)
    tree, line = built(folder, FolderPlace(registry))
    RegistryWriter(registry).publish(Registry(str(tree.root)), line)


def ok(capfd: Capture, *arguments: object) -> str:
    status, out, err = run(capfd, *map(str, arguments))
    assert status == 0, err
    return out + err


def refused(capfd: Capture, *arguments: object) -> tuple[int, str]:
    """Return the status and the code."""
    status, out, _ = run(capfd, *map(str, arguments), "--json")
    return status, json.loads(out)["error"]["code"]


def submit(capfd: Capture, registry: Path, version: str, **more: Any) -> str:
    folder = write(registry.parent / f"my-{version}", TENSORS | more, "words", version)
    ok(capfd, "build", folder)
    return ok(capfd, "submit", folder, "-m", "Better.\n\nMuch better.")


def test_from_submission_to_decision(registry: Path, capfd: Capture) -> None:
    assert "no candidates" in ok(capfd, "candidates", "words")
    assert "Submitted words#1: words 1.1 to" in submit(capfd, registry, "1.1", c=TENSORS["a"])
    again = submit(capfd, registry, "1.1", c=TENSORS["a"])
    assert "already: words#1, which ada submitted" in again
    assert "new)" not in again
    repeated = ok(capfd, "submit", registry.parent / "my-1.1", "-m", "again", "--json")
    assert [json.loads(repeated)[key] for key in ("number", "size")] == [1, 0]
    submit(capfd, registry, "1.2", c=TENSORS["b"])
    listed = ok(capfd, "candidates", "words")
    assert "#1" in listed
    assert "Better." in listed
    assert "Much" not in listed
    ok(capfd, "comment", "words#1", "Why?")
    ok(capfd, "approve", "words#1", "-m", "Looked at it.")
    text = ok(capfd, "candidates", "words#1")
    for part in ("submitted by ada", "Much better.", "check by ada says accept", "Why?",
                 "ada approved it", "conflicts with words#2: both add, remove or reshape 1 tensor",
                 "modpkg diff words==1.0 'words#1'"):  # fmt: skip
        assert part in text, text
    assert "Accepted words#1: words 1.1 is released." in ok(capfd, "accept", "words#1")
    assert "was accepted by ada" in ok(capfd, "candidates", "words#1")
    assert refused(capfd, "submit", "my-1.1", "-m", "again") == (1, "M470")
    ok(capfd, "reject", "words#2", "--reason", "1.1 has it")
    assert refused(capfd, "withdraw", "words#2") == (1, "M468")
    submit(capfd, registry, "1.3", d=TENSORS["b"], c=TENSORS["a"])
    assert "Withdrew words#3." in ok(capfd, "withdraw", "words#3")
    shown = json.loads(ok(capfd, "candidates", "words", "--json"))
    statuses = [one["status"] for one in shown["candidates"]]
    assert statuses == ["accepted", "rejected", "withdrawn"]
    kinds = [entry.kind for entry in read_thread(Registry(str(registry)), "words", 1)]
    assert kinds == ["report", "comment", "approval"]


def test_what_is_not_named_rightly_is_refused(registry: Path, capfd: Capture) -> None:
    submit(capfd, registry, "1.1", c=TENSORS["a"])
    assert refused(capfd, "candidates", "other")[1] == "M304"
    assert refused(capfd, "candidates", "words#2") == (1, "M467")
    assert refused(capfd, "candidates", "words==1.0") == (2, "M901")
    assert refused(capfd, "accept", "words") == (2, "M901")
    assert refused(capfd, "comment", "words#1", " ") == (2, "M901")
    assert refused(capfd, "comment", "words#1", "\x1b[2J") == (1, "M466")
    assert refused(capfd, "comment", "words#1", "\ud800") == (1, "M466")
    assert refused(capfd, "reject", "words#1", "--reason", "\ud800") == (1, "M466")
    assert refused(capfd, "reject", "words#1", "--reason", " ") == (2, "M901")
    assert refused(capfd, "vet", "words==1.0", "--report") == (2, "M901")
    assert refused(capfd, "submit", "my-1.1", "-m", " ") == (2, "M901")
    assert refused(capfd, "comment", "words#1", "?", "--registry", "none")[0] == 1


def test_a_release_that_came_meanwhile_counts(registry: Path, capfd: Capture) -> None:
    submit(capfd, registry, "1.0.1")
    publish(registry, "1.0.0.1", c=TENSORS["a"])  # what 1.0.1 lacks
    assert refused(capfd, "accept", "words#1") == (1, "M761")
    assert [line.version for line in Registry(str(registry)).index("words")] == ["1.0", "1.0.0.1"]
