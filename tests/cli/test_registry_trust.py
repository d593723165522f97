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

from modpkg.cli import registry_root, registry_trust
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
    status, out, err = run(trust.capfd, "registry", "trust", "show", str(trust.folder))
    assert (status, "snapshot 3" in out, "snapshot.json" in err) == (0, True, True), err


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
    one = ("registry", "trust", "rotate", storage, "--root-key", public)
    status, _, err = run(trust.capfd, *one, *online)  # nobody has typed --threshold
    assert (status, "So far 2 root keys" in err) == (2, True), err


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


@pytest.mark.parametrize("years", [-6, 9])
@pytest.mark.parametrize("online", ["online", "other"])
def test_no_root_is_made_by_a_clock_that_is_wrong(
    years: int, online: str, trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust.publish("1.0")
    trust.init()
    year = datetime.now(timezone.utc).year + years
    moment = datetime(year, 1, 1, tzinfo=timezone.utc)
    signing = ("registry", "trust", "sign", str(trust.folder), "--online-key")
    words = ["registry", "trust", "rotate", str(trust.folder), *trust.root_keys("alice", "bob")]
    with monkeypatch.context() as patch:
        for module in (registry_root, registry_trust):
            patch.setattr(module, "_now", lambda: moment)
        assert "error[M597]" in trust.refused(*signing, trust.key("online"))
        err = trust.refused(*words, "--online-key", trust.key(online))
        assert ("error[M568]" in err, f"{year}-01-01" in err) == (True, True)
        if online == "online":  # of another key's it is not known that it was signed in time
            named = ("--root-days", "3650", "--online-key", trust.key(online))
            assert "error[M597]" in trust.refused(*words, *named)
    assert not (trust.folder / "tuf" / "2.root.json").exists()
    trust.trust("rotate", *words[4:], "--online-key", trust.key(online), "--root-days", "300")


@pytest.mark.parametrize("online", ["online", "other"])
def test_a_registry_that_began_again_is_named_with_the_way_on(
    trust: Trust, app: Path, online: str
) -> None:
    """As `docs/signing.md` says of lost root keys."""
    trust.publish("1.0")
    trust.init()
    trust.run("lock")
    trust.trust("sign", "--online-key", trust.key("online"))
    trust.run("lock", "--upgrade")
    shutil.rmtree(trust.folder / "tuf")
    trust.trust("init", *trust.root_keys("carol"), "--online-key", trust.key(online))
    for words in (("lock", "--upgrade"), ("search", "words")):
        status, out, err = run(trust.capfd, *words)
        assert (status, "M567" in out + err) == (1, True), err
    remedy = trust.refused("lock", "--upgrade").rpartition("run: modpkg ")[2].split()
    trust.run(*remedy)
    trust.run("lock", "--upgrade")


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


def public(trust: Trust, name: str) -> str:
    return Path(trust.key(name)).with_suffix(".pub").read_text().strip()


def by_turns(trust: Trust, command: str, name: str, file: Path, other: str) -> tuple[str, ...]:
    """Return the command by which one of two people begins, or finishes, a root."""
    people = (*trust.root_keys(name), "--root-key", public(trust, other))
    online = ("--online-key", trust.key("online"), "--root-file", str(file))
    words = ("registry", "trust", command, str(trust.folder), *people, *online)
    return (*words, "--threshold", "2")


def sign_root(trust: Trust, file: Path, *names: str) -> Any:
    words = ("registry", "trust", "sign-root", str(file), *trust.root_keys(*names))
    document = json.loads(trust.run(*words, "--json"))
    check_shape(document, *words)
    return document


def test_people_sign_a_root_by_turns(trust: Trust, app: Path, tmp_path: Path) -> None:
    """No machine has two of the root keys."""
    trust.publish("1.0")
    file = tmp_path / "our root.json"
    begin = by_turns(trust, "init", "alice", file, "bob")
    document = json.loads(trust.run(*begin, "--json"))
    check_shape(document, *begin)
    assert document["signed"] == [public(trust, "alice")]
    assert not (trust.folder / "tuf").exists()
    out = trust.run(*begin)  # it changes nothing again, and says what is missing
    assert ("sign-root 'our root.json'" in out, public(trust, "bob") in out) == (True, True)
    assert sign_root(trust, file)["signed"] == [public(trust, "alice")]
    shown = sign_root(trust, file, "bob")
    assert shown["people"] == shown["signed"] == [public(trust, "alice"), public(trust, "bob")]
    words = ("--online-key", trust.key("online"), "--root-file", str(file))
    assert trust.trust("init", *words)["modules"] == 1  # whoever finishes has no root key
    trust.run("lock")

    second = tmp_path / "second.json"
    trust.run(*by_turns(trust, "rotate", "bob", second, "carol"))
    sign_root(trust, second, "carol")
    finish = ("registry", "trust", "rotate", str(trust.folder), *words[:3], str(second))
    out = trust.run(*finish)  # of those before, alice has to sign too
    assert public(trust, "alice") in out
    assert trust.trust("show")["root_version"] == 1
    out = trust.run("registry", "trust", "sign-root", str(second), *trust.root_keys("alice"))
    assert "version 2" in out
    trust.run(*finish)
    shown = trust.trust("show")
    assert (shown["root_version"], shown["people"]) == (
        2,
        [public(trust, "bob"), public(trust, "carol")],
    )
    assert "error[M568]" in trust.refused(*finish)  # root 2 is there
    trust.run("lock", "--upgrade")


def test_a_root_is_what_each_has_signed(trust: Trust, app: Path, tmp_path: Path) -> None:
    trust.publish("1.0")
    file = tmp_path / "root.json"
    begin = by_turns(trust, "init", "alice", file, "bob")
    trust.run(*begin)
    honest = file.read_bytes()
    sign = ("registry", "trust", "sign-root", str(file), *trust.root_keys("bob"))

    changed = json.loads(honest)
    changed["signed"]["expires"] = "2099-01-01T00:00:00Z"
    file.write_text(json.dumps(changed))
    for words in (begin, sign, sign[:-2]):
        assert "error[M598]" in trust.refused(*words)
    for part, key, value in (
        ("signed", "extra", 1),
        ("signed", "roles", {}),
        ("signed", "version", -1),
        ("signed", "keys", {}),
        ("", "signatures", [{"keyid": "a", "sig": "b"}] * 2),
    ):
        changed = json.loads(honest)
        (changed[part] if part else changed)[key] = value
        file.write_text(json.dumps(changed))
        assert "error[M565]" in trust.refused(*sign), key
        assert json.loads(file.read_bytes()) == changed
    roles = json.loads(honest)["signed"]["roles"]
    for role, keyids in (("root", []), ("timestamp", roles["root"]["keyids"][:1])):
        changed = json.loads(honest)
        changed["signed"]["roles"][role]["keyids"] = keyids
        file.write_text(json.dumps(changed))
        assert "error[M565]" in trust.refused(*sign), role
    file.write_bytes(b" " * 300_000)
    assert "error[M512]" in trust.refused(*sign)

    file.write_bytes(honest)
    sign_root(trust, file, "carol")  # who is nobody there: it counts for nothing
    assert sign_root(trust, file)["signed"] == [public(trust, "alice")]
    trust.run(*begin)
    assert not (trust.folder / "tuf").exists()
    other = (*begin[:-1], "1")
    assert "error[M901]" in run(trust.capfd, *other)[2]
    sign_root(trust, file, "bob")
    online = ("--online-key", trust.key("other"), "--root-file", str(file))
    words = ("registry", "trust", "init", str(trust.folder))
    assert "error[M568]" in trust.refused(*words, *online)
    assert "error[M901]" in run(trust.capfd, *words, *online[:2])[2]
    assert not (trust.folder / "tuf").exists()
