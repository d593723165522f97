"""Signing a registry's index by hand, and what a project records and holds to."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import tomli

from modpkg.registry.folder_place import FolderPlace
from modpkg.trust.metadata_writer import MetadataWriter
from modpkg.trust.private_key import read_key
from modpkg.trust.root_metadata import name_root, new_root, signed_root, write_root
from tests.cli.test_everywhere import run
from tests.command import check_shape
from tests.modules import write_module
from tests.registry.servers import serve

Capture = pytest.CaptureFixture[str]


class Trust:
    """Somebody who signs the registry of a test."""

    def __init__(self, capfd: Capture, folder: Path) -> None:
        self.capfd = capfd
        self.folder = folder
        self.keys = folder.parent / "keys"
        for name in ("alice", "bob", "carol", "online", "other"):
            self.run("key", "new", self.key(name), "--no-passphrase")

    def key(self, name: str) -> str:
        return str(self.keys / f"{name}.pem")

    def run(self, *words: str) -> str:
        status, out, err = run(self.capfd, *words)
        assert status == 0, err
        return out

    def refused(self, *words: str) -> str:
        status, _, err = run(self.capfd, *words)
        assert status == 1
        return err

    def trust(self, command: str, *options: str) -> Any:
        words = ("registry", "trust", command, str(self.folder), *options)
        document = json.loads(self.run(*words, "--json"))
        check_shape(document, *words)
        return document

    def root_keys(self, *names: str) -> list[str]:
        return [word for name in names for word in ("--root-key", self.key(name))]

    def init(self, *options: str) -> Any:
        people = self.root_keys("alice", "bob")
        online = ("--online-key", self.key("online"), "--bins", "4")
        return self.trust("init", *people, "--threshold", "2", *online, *options)

    def publish(self, version: str) -> str:
        """Publish a version, and return what is said about it besides."""
        folder = write_module(self.folder.parent / "projects" / version, "words", version)
        self.run("build", str(folder))
        words = ("--registry", str(self.folder), "--allow-breaking", "a test")
        status, _, err = run(self.capfd, "publish", str(folder), *words)
        assert status == 0, err
        return err


@pytest.fixture
def trust(home: Path, tmp_path: Path, capfd: Capture) -> Trust:
    return Trust(capfd, tmp_path / "registry")


@pytest.fixture
def app(trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\nwords = "*"\n'
        f'[registries]\ndefault = "{trust.folder.as_posix()}"\n'
    )
    monkeypatch.chdir(folder)
    return folder


def locked(app: Path) -> dict[str, Any]:
    return tomli.loads((app / "modpkg.lock").read_text())


def test_a_lock_records_how_far_a_signed_registry_has_come(trust: Trust, app: Path) -> None:
    assert "sign" not in trust.publish("1.0")
    assert trust.init()["modules"] == 1
    trust.run("lock")
    (entry,) = locked(app)["registry"]
    shown = trust.trust("show")
    assert entry["root"] == shown["root"]
    assert (entry["root-version"], entry["snapshot"]) == (1, 1)
    assert (shown["threshold"], len(shown["people"]), len(shown["online"])) == (2, 2, 1)
    text = (app / "modpkg.lock").read_bytes()
    trust.trust("sign", "--online-key", trust.key("online"))
    trust.run("lock", "--upgrade")
    assert (app / "modpkg.lock").read_bytes() == text  # nothing else has changed
    assert f"modpkg registry trust sign {trust.folder}" in trust.publish("1.1")
    assert "error[M564]" in trust.refused("lock", "--upgrade")
    trust.trust("sign", "--online-key", trust.key("online"))
    trust.run("lock", "--upgrade")
    (entry,) = locked(app)["registry"]
    assert entry["snapshot"] == 3
    (app / "modpkg.lock").write_text(
        (app / "modpkg.lock").read_text().replace("snapshot = 3", "snapshot = 4")
    )
    assert "error[M562]" in trust.refused("lock", "--upgrade")


def test_a_registry_that_is_not_signed_is_not_mentioned(trust: Trust, app: Path) -> None:
    trust.publish("1.0")
    trust.run("lock")
    assert "registry" not in locked(app)
    status, _, err = run(trust.capfd, "registry", "trust", "show", str(trust.folder))
    assert (status, "error[M579]" in err, "not signed" in err) == (1, True, True)


@pytest.mark.parametrize("is_served", [False, True])
def test_who_signs_is_forgotten_here_and_in_the_lock(
    trust: Trust, app: Path, is_served: bool
) -> None:
    trust.publish("1.0")
    trust.init()
    with serve(trust.folder) if is_served else nullcontext() as server:
        url = str(trust.folder) if server is None else server.url
        path = app / "modpkg.toml"
        path.write_text(path.read_text().replace(trust.folder.as_posix(), url))
        trust.run("lock")
        for file in (trust.folder / "tuf").iterdir():
            file.unlink()
        info = json.loads((trust.folder / "registry.json").read_bytes())
        del info["tuf"]
        (trust.folder / "registry.json").write_text(json.dumps(info))
        err = trust.refused("lock", "--upgrade")
        assert "error[M566]" in err
        remedy = err.rpartition("run: modpkg ")[2].split()
        assert remedy == ["registry", "trust", "forget", url]
        document = json.loads(trust.run(*remedy, "--json"))
        check_shape(document, *remedy)
        assert document["was_known"]
        trust.run("lock", "--upgrade")
        assert "registry" not in locked(app)
        assert not json.loads(trust.run(*remedy, "--json"))["was_known"]


def test_roots_are_rotated(trust: Trust, app: Path) -> None:
    trust.publish("1.0")
    trust.init()
    trust.run("lock")
    online = ("--online-key", trust.key("online"))
    people = trust.root_keys("bob", "carol")
    words = ("registry", "trust", "rotate", str(trust.folder), *people, *online)
    public = Path(trust.key("alice")).with_suffix(".pub").read_text().strip()
    err = trust.refused(*words)  # of those before, alice has to sign too
    assert ("error[M568]" in err, "--sign-with" in err, public in err) == (True, True, True), err
    shown = trust.trust("rotate", *people, "--sign-with", trust.key("alice"), *online)
    assert (shown["root_version"], shown["threshold"], shown["snapshot"]) == (2, 2, 2)
    trust.run("lock", "--upgrade")
    other = ("--online-key", trust.key("other"))
    shown = trust.trust("rotate", *people, *other)
    assert (shown["root_version"], shown["snapshot"]) == (3, 3)
    trust.run("lock", "--upgrade")
    assert "error[M568]" in trust.refused("registry", "trust", "sign", str(trust.folder), *online)
    trust.trust("sign", *other, "--fresh")
    trust.run("lock", "--upgrade")


def test_what_cannot_be_signed_is_refused(trust: Trust, tmp_path: Path) -> None:
    online = ("--online-key", trust.key("online"))
    storage = str(trust.folder)
    trust.run("registry", "init", storage)
    assert "error[M568]" in trust.refused("registry", "trust", "sign", storage, *online)
    people = trust.root_keys("alice")
    rotate = ("registry", "trust", "rotate", storage, *people, *online)
    assert "error[M568]" in trust.refused(*rotate)
    init = ("registry", "trust", "init", storage, *people, *online)
    status, _, err = run(trust.capfd, *init, "--threshold", "2")
    assert (status, "never holds" in err) == (2, True)
    public = Path(trust.key("bob")).with_suffix(".pub").read_text().strip()
    both = (*init, "--root-key", public, "--threshold", "2")
    err = trust.refused(*both)  # bob has not signed
    assert ("error[M568]" in err, "--sign-with" in err, public in err) == (True, False, True), err
    assert not (trust.folder / "tuf" / "1.root.json").exists()
    trust.init()
    assert "error[M568]" in trust.refused(*init)


def test_a_root_key_is_no_online_key_and_nothing_is_shown_of_no_registry(
    trust: Trust, tmp_path: Path
) -> None:
    trust.publish("1.0")
    words = ("registry", "trust", "init", str(trust.folder), "--threshold", "1")
    trust.init()
    shutil.rmtree(trust.folder / "tuf")
    keys = trust.root_keys("alice")
    _, _, err = run(trust.capfd, *words, *keys, "--online-key", keys[1])
    assert "error[M901]" in err
    assert not (trust.folder / "tuf").exists()
    assert "error[M301]" in trust.refused("registry", "trust", "show", str(tmp_path / "absent"))


def test_a_lost_root_is_put_back(trust: Trust, app: Path, home: Path) -> None:
    trust.publish("1.0")
    trust.init()
    trust.run("lock")
    root = trust.folder / "tuf" / "1.root.json"
    root.unlink()
    online = ("--online-key", trust.key("online"))
    for command, *keys in (("sign",), ("rotate", *trust.root_keys("alice"))):
        err = trust.refused("registry", "trust", command, str(trust.folder), *keys, *online)
        assert "error[M568]" in err
        assert "trust init" not in err
        assert "lacks tuf/1.root.json" in err
    (known,) = (home / "registries").glob("*/1.root.json")
    shutil.copy(known, root)
    trust.trust("sign", *online)
    trust.run("lock", "--upgrade")


def test_who_signs_is_warned_before_the_root_expires(trust: Trust, app: Path) -> None:
    trust.publish("1.0")
    trust.init("--root-days", "29")
    words = ("registry", "trust", "sign", str(trust.folder), "--online-key", trust.key("online"))
    assert "trust rotate" in run(trust.capfd, *words)[2]
    people = trust.root_keys("alice", "bob")
    trust.trust("rotate", *people, "--online-key", trust.key("online"))
    assert "rotate" not in run(trust.capfd, *words)[2]


def test_what_has_expired_is_shown(trust: Trust, app: Path) -> None:
    trust.publish("1.0")
    place, past = FolderPlace(trust.folder), datetime(2020, 2, 1, tzinfo=timezone.utc)
    person, online = (read_key(Path(trust.key(name)), str) for name in ("alice", "online"))
    root = new_root(1, [person.public], 1, online.public, past + timedelta(days=1))
    data = signed_root(root, [person], None)
    write_root(place, data, None)
    name_root(place, data)
    MetadataWriter(place, [online], now=lambda: past).sign_all(bits=2)
    assert "error[M561]" in trust.refused("lock")
    shown = trust.trust("show")
    assert (shown["root_expires"], shown["expired"]) == ("2020-02-02T00:00:00Z", True)
    out = trust.run("registry", "trust", "show", str(trust.folder))
    assert ("2020-02-02" in out, "expired" in out) == (True, True)
