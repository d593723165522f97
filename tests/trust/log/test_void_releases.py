"""A log that says that a release is void hides it from nobody who was shown it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from modpkg.core.digests import parse_digest
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.trust.log import checking
from modpkg.trust.log.audit import audit_log
from modpkg.trust.log.checking import check_logged
from modpkg.trust.log.difference import LogDifference
from modpkg.trust.log.entries import logged_path, void_entry
from modpkg.trust.log.memory import LogMemory
from tests.cli.test_everywhere import run
from tests.raising import raises
from tests.trust.log.logged import LoggedRegistry

AT = "2026-01-01T00:00:00Z"


class TwoFaces:
    """A registry that has logged words 1.1, and shows it to one person alone."""

    def __init__(self, folder: Path) -> None:
        self.one = LoggedRegistry(folder).begin()
        self.folder = folder
        self.one.publish("words")
        before = self._index()
        self.line = self.one.publish("words", "1.1")
        self._views = {True: self._index(), False: before}
        self._place = folder / logged_path(parse_digest(self.line.release))
        self._where = self._place.read_bytes()

    def _index(self) -> dict[Path, bytes]:
        paths = (self.folder / "index" / "words.jsonl", self.folder / "modules.jsonl")
        return {path: path.read_bytes() for path in paths}

    def show(self, *, victim: bool) -> None:
        """Show what the victim is to see, or everybody else."""
        for path, data in self._views[victim].items():
            path.write_bytes(data)
        if victim:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._place.write_bytes(self._where)
        else:
            self._place.unlink(missing_ok=True)

    def void(self) -> None:
        self.one.log.append([void_entry("words", "1.1", self.line.release, AT)])

    def audit(self, memory: Path, *locked: str) -> list[LogDifference]:
        """Return what somebody finds who has locked these releases."""
        found = audit_log(
            lambda: Registry(str(self.folder)),
            LogMemory("https://models.example", memory),
            Progress(),
            locked_releases=locked,
        )
        return found.differences


@pytest.fixture
def faces(tmp_path: Path) -> TwoFaces:
    return TwoFaces(tmp_path / "models")


def check(faces: TwoFaces, memory: Path, *lines: IndexLine) -> None:
    check_logged(faces.one.read(), lines, LogMemory("https://models.example", memory))


def project(folder: Path, registry: Path, patch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    patch.chdir(folder)
    (folder / "modpkg.toml").write_text(
        f'[app]\nname = "app"\n[dependencies]\nwords = "*"\n[registries]\ndefault = "{registry}"\n'
    )


def test_a_void_release_is_not_locked_whatever_the_registry_says_of_its_place(
    faces: TwoFaces,
    home: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faces.void()
    project(tmp_path / "app", faces.folder, monkeypatch)
    faces.show(victim=True)
    status, _, err = run(capfd, "install")
    assert (status, "error[M554]" in err) == (1, True), err
    with raises("M554", match="void"):
        check(faces, tmp_path / "ada", faces.line)


def test_whoever_has_locked_a_release_is_told_that_it_is_void(
    faces: TwoFaces,
    home: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project(tmp_path / "app", faces.folder, monkeypatch)
    assert run(capfd, "install")[0] == 0
    faces.void()
    for victim in (True, False):
        faces.show(victim=victim)
        status, out, _ = run(capfd, "verify", "--json")
        flaws = [(flaw["code"], flaw["of"]) for flaw in json.loads(out)["flaws"]]
        assert (status, flaws) == (1, [("M554", "words 1.1")])
    audit = ("registry", "audit", str(faces.folder))
    status, out, _ = run(capfd, *audit, "--json")
    (found,) = json.loads(out)["differences"]
    assert (status, found["kind"], found["entry"]) == (1, "void", 2)
    assert (found["version"], found["release"]) == ("1.1", faces.line.release)
    monkeypatch.chdir(tmp_path)  # who has not locked it has only a line
    status, out, _ = run(capfd, *audit)
    assert (status, "is void (entry 2)" in out) == (0, True)


def test_in_a_large_log_an_audit_finds_it(
    faces: TwoFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever locks a release of it does not read the later entries."""
    monkeypatch.setattr(checking, "SMALL", 0)
    faces.void()
    faces.show(victim=True)
    check(faces, tmp_path / "ada", faces.line)
    faces.show(victim=False)
    (found,) = faces.audit(tmp_path / "ada", faces.line.release)
    assert (found.kind, found.entry) == ("void", 2)


def test_a_void_version_is_no_other_release(faces: TwoFaces, tmp_path: Path) -> None:
    """Whoever is shown the second one would else not notice that there was a first."""
    faces.show(victim=False)
    faces.void()
    assert faces.audit(tmp_path / "ada") == []
    project = tmp_path / "projects" / "words-1.1"
    shutil.rmtree(project)
    project.mkdir()
    (project / "README.md").write_text("Another one.")
    other = faces.one.publish("words", "1.1")
    assert other.release != faces.line.release
    (found,) = faces.audit(tmp_path / "ada", other.release)
    assert (found.kind, found.version, found.release) == ("void", "1.1", faces.line.release)
    assert len(faces.audit(tmp_path / "ada", faces.line.release)) == 2


def test_a_void_release_counts_once_it_is_published_again(faces: TwoFaces, tmp_path: Path) -> None:
    faces.show(victim=False)
    faces.void()
    shutil.rmtree(tmp_path / "projects" / "words-1.1")
    line = faces.one.publish("words", "1.1")
    assert line.release == faces.line.release
    check(faces, tmp_path / "ada", line)
    assert faces.audit(tmp_path / "ada", line.release) == []
