"""A registry says when a release was published, and its log when it took it in."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from modpkg.core.progress import Progress
from modpkg.manifest.cutoff import moment_text
from modpkg.registry.reader import Registry
from modpkg.trust.log import appending
from modpkg.trust.log.audit import audit_log
from modpkg.trust.log.entries import parse_entry, transfer_entry
from modpkg.trust.log.memory import LogMemory
from modpkg.trust.log.small_log import SMALL
from tests.cli.test_everywhere import run
from tests.trust.log.logged import LoggedRegistry

Capture = pytest.CaptureFixture[str]


def ago(days: int) -> str:
    now = datetime.datetime.now(datetime.timezone.utc)
    return moment_text(now - datetime.timedelta(days=days))


def redate(registry: LoggedRegistry, version: str, published: str) -> None:
    """Let the registry say of a release of ``words`` that it was published at another time."""
    path = registry.folder / "index" / "words.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["version"] == version:
            line["published"] = published
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoggedRegistry:
    """A registry whose log began a hundred days ago with 1.0, and that published 1.1 today."""
    made = LoggedRegistry(tmp_path / "models")
    made.publish("words")
    redate(made, "1.0", ago(500))
    with monkeypatch.context() as patch:
        patch.setattr(appending, "moment_text", lambda: ago(100))
        made.begin()
    made.publish("words", "1.1")
    return made


@pytest.fixture
def app(one: LoggedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "modpkg.toml").write_text(
        f'[app]\nname = "app"\n[registries]\ndefault = "{one.folder}"\n'
        '[dependencies]\nwords = "*"\n'
    )
    monkeypatch.chdir(folder)
    return folder


def versions(app: Path) -> str:
    lines = (app / "modpkg.lock").read_text().splitlines()
    return next(line for line in lines if line.startswith("version"))


@pytest.mark.parametrize("is_small", [True, False])
@pytest.mark.parametrize("how", ["exclude-newer", "cool-down"])
def test_a_release_is_no_older_than_its_log_says(
    how: str, is_small: bool, one: LoggedRegistry, app: Path, capfd: Capture
) -> None:
    """Of a large log it is asked when it began."""
    if not is_small:
        one.log.append([transfer_entry(f"m{n}", "bob", ago(50)) for n in range(SMALL)])
    if how == "cool-down":
        info = one.folder / "registry.json"
        info.write_text(json.dumps({**json.loads(info.read_text()), "cool_down": "7 days"}))
    else:
        with open(app / "modpkg.toml", "a") as file:
            file.write('[resolution]\nexclude-newer = "7 days"\n')
    assert run(capfd, "lock")[0] == 0
    assert versions(app) == 'version = "1.0"'  # the log began with it
    redate(one, "1.1", ago(200))
    status, _, err = run(capfd, "lock", "--upgrade")
    assert (status, "error[M474]" in err, "was logged" in err) == (1, True, True), err
    assert versions(app) == 'version = "1.0"'
    lines = (app / "modpkg.toml").read_text().replace('words = "*"', 'words = "!=1.1"')
    (app / "modpkg.toml").write_text(lines)
    assert run(capfd, "lock", "--upgrade")[0] == 0
    text = lines.replace('words = "!=1.1"', 'words = "*"')
    head = "" if how == "exclude-newer" else "[resolution]\n"
    (app / "modpkg.toml").write_text(f"{text}{head}exclude-newer-package = {{ words = false }}\n")
    status, _, err = run(capfd, "lock", "--upgrade")
    assert (status, versions(app)) == (0, 'version = "1.1"'), err


def test_without_a_cut_off_nothing_depends_on_dates(
    one: LoggedRegistry, app: Path, capfd: Capture
) -> None:
    redate(one, "1.1", ago(200))
    assert run(capfd, "lock")[0] == 0
    assert versions(app) == 'version = "1.1"'


@pytest.mark.parametrize(
    ("version", "days", "is_right"),
    [("1.1", 200, False), ("1.0", 0, False), ("1.0", 600, True), ("1.1", 0, True)],
)
def test_an_audit_compares_dates(
    version: str, days: int, is_right: bool, one: LoggedRegistry, tmp_path: Path
) -> None:
    """One that was logged when the log began may be older, and none is younger."""
    redate(one, version, ago(days))
    memory = LogMemory(str(one.folder), tmp_path / "seen")
    found = audit_log(lambda: Registry(str(one.folder)), memory, Progress()).differences
    wanted = [] if is_right else [("published", "words", version)]
    assert [(each.kind, each.name, each.version) for each in found] == wanted


def test_an_entry_says_when_it_was_logged() -> None:
    with pytest.raises(ValueError, match="when it was logged"):
        parse_entry(b'{"action":"transfer","at":"soon","name":"a","owner":"b","spec":1}')
