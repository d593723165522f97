"""Locks and logs: what another machine is held to, and what is asked for later."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest
import tomli
from msgspec import structs

from modpkg.core.digests import parse_digest
from modpkg.core.filenames import REGISTRY_INFO, REGISTRY_MODULES
from modpkg.core.records import LogInfo, canonical_json
from modpkg.environment import logged
from modpkg.environment.signed_registries import log_of, without_seen
from modpkg.registry.object_source import ObjectSource
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import Lock, LockedModule, LockedRegistry, format_lock, parse_lock
from modpkg.trust.log import checking
from modpkg.trust.log.appending import LogWriter
from modpkg.trust.log.entries import logged_path, transfer_entry
from modpkg.trust.log.log_checkpoint import LogCheckpoint
from modpkg.trust.log.memory import LogState
from tests.cli.test_everywhere import run
from tests.raising import raises
from tests.registry.servers import serve
from tests.trust.log.logged import ORIGIN, LoggedRegistry
from tests.trust.signed_registry import key

Capture = pytest.CaptureFixture[str]
AT = "2026-01-01T00:00:00Z"


class Machine:
    """Somebody's modpkg: the same project and registry, another home and environment."""

    def __init__(self, app: Path, home: Path, capfd: Capture, patch: pytest.MonkeyPatch) -> None:
        self.app, self.home, self._capfd, self._patch = app, home, capfd, patch

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._patch.setenv("MODPKG_HOME", str(self.home))
        self._patch.setenv("MODPKG_CACHE", str(self.home / "cache"))
        return run(self._capfd, *arguments)

    def ok(self, *arguments: str) -> str:
        status, out, err = self(*arguments)
        assert status == 0, err
        return err + out

    def fails(self, code: str, *arguments: str) -> str:
        status, _, err = self(*arguments)
        errors = [line for line in err.splitlines() if not line.startswith("warning: ")]
        assert (status, f"error[{code}]" in err, len(errors)) == (1, True, 1), err
        return err


@pytest.fixture
def one(tmp_path: Path) -> LoggedRegistry:
    made = LoggedRegistry(tmp_path / "models").begin()
    made.publish("words")
    return made


@pytest.fixture
def machine(
    home: Path, tmp_path: Path, one: LoggedRegistry, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Machine]:
    app = tmp_path / "app"
    app.mkdir()
    (app / "modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\nwords = "*"\n'
        f'[registries]\ndefault = "{one.folder}"\n'
    )
    monkeypatch.chdir(app)
    return lambda name: Machine(app, tmp_path / name, capfd, monkeypatch)


def locked(app: Path) -> dict[str, object]:
    (found,) = tomli.loads((app / "modpkg.lock").read_text())["registry"]
    assert isinstance(found, dict)
    return found


def unlogged(app: Path) -> list[str]:
    modules = tomli.loads((app / "modpkg.lock").read_text())["module"]
    return [module["name"] for module in modules if module.get("unlogged")]


def add(app: Path, *names: str) -> None:
    path = app / "modpkg.toml"
    new = "".join(f'{name} = "*"\n' for name in names)
    path.write_text(path.read_text().replace("[registries]", f"{new}[registries]"))


def grow(one: LoggedRegistry, count: int, prefix: str = "m") -> None:
    one.log.append([transfer_entry(f"{prefix}{number}", "bob", AT) for number in range(count)])


def replace(one: LoggedRegistry, other: Path) -> None:
    """Let another tree lie at the registry's address; it has to be a folder beside it."""
    shutil.rmtree(one.folder)
    shutil.copytree(other, one.folder)


def forked(one: LoggedRegistry, name: str) -> LoggedRegistry:
    folder = one.folder.parent / name
    shutil.copytree(one.folder, folder)
    copy = LoggedRegistry(folder, one.folder.parent / "models.pem")
    copy.place.journal = copy.log
    return copy


def test_a_lock_has_how_far_the_log_had_come_and_stays_quiet(
    one: LoggedRegistry, machine: Callable[[str], Machine]
) -> None:
    ada = machine("ada")
    ada.ok("lock")
    found = locked(ada.app)
    assert (found["log"], found["log-key"], found["log-size"]) == (ORIGIN, str(one.key.public), 1)
    assert str(found["log-root"]).startswith("sha256:")
    assert "root" not in found
    before = (ada.app / "modpkg.lock").read_bytes()
    grow(one, 3)
    ada.ok("lock")
    machine("bob").ok("lock")  # who asks the log since he has not seen it yet
    assert (ada.app / "modpkg.lock").read_bytes() == before
    one.publish("words", "2.0")
    ada.ok("update")
    assert locked(ada.app)["log-size"] == 5


def test_another_machine_sees_that_the_log_is_gone_or_another(
    one: LoggedRegistry, machine: Callable[[str], Machine], tmp_path: Path
) -> None:
    """Who has never seen the registry has what the lock says of its log; the remedy works."""
    machine("ada").ok("lock")
    bob = machine("bob")
    path = one.folder / REGISTRY_INFO
    whole = path.read_bytes()
    told = msgspec.json.decode(whole)
    del told["log"]
    path.write_bytes(canonical_json(told))
    assert "modpkg.lock" in bob.fails("M551", "lock")
    err = bob.fails("M551", "install")
    path.write_bytes(whole)
    bob.ok("install")
    path.write_bytes(canonical_json(told))
    bob.fails("M551", "lock")
    (flaw,) = json.loads(bob("verify", "--json")[1])["flaws"]
    assert flaw["code"] == "M551"
    remedy = err.split("run: modpkg ")[1].split()
    bob.ok(*remedy)
    bob.ok("lock")
    assert "[[registry]]" not in (bob.app / "modpkg.lock").read_text()


def gone(one: LoggedRegistry) -> None:
    """Do what docs/operating.md says of a key that is lost."""
    shutil.rmtree(one.folder / "log")
    path = one.folder / REGISTRY_INFO
    told = msgspec.json.decode(path.read_bytes())
    del told["log"]
    path.write_bytes(canonical_json(told))


def begun_again(one: LoggedRegistry) -> None:
    gone(one)
    one.log.begin(ORIGIN, one.place)


def another_log(one: LoggedRegistry) -> None:
    """The list of modules is not brought up to date: it calls copies of ``registry.json`` right."""
    listed = one.folder / REGISTRY_MODULES
    before = listed.read_bytes()
    gone(one)
    LogWriter(one.place, key(2)).begin(ORIGIN, one.place)
    listed.write_bytes(before)


def hidden(one: LoggedRegistry) -> None:
    kept = one.folder.parent / "kept"
    shutil.copytree(one.folder / "log", kept)
    gone(one)
    shutil.copytree(kept, one.folder / "log")


@pytest.mark.parametrize("change", [gone, begun_again, another_log, hidden])
def test_the_remedy_works_where_a_copy_says_what_the_registry_said_of_its_log(
    change: Callable[[LoggedRegistry], None],
    one: LoggedRegistry,
    machine: Callable[[str], Machine],
    tmp_path: Path,
) -> None:
    grow(one, 3)
    with serve(one.folder) as server:
        path = tmp_path / "app" / "modpkg.toml"
        path.write_text(path.read_text().replace(str(one.folder), server.url))
        ada = machine("ada")
        ada.ok("install")
        change(one)
        refusing = ("registry", "audit", server.url) if change is hidden else ("verify",)
        status, out, err = ada(*refusing)
        assert status == 1
        remedy = (out + err).split("run: modpkg ")[1].split("\n")[0].split()
        assert remedy == ["registry", "trust", "forget", "--log", server.url]
        ada.ok(*remedy)
        for command in (["lock", "--upgrade"], ["install"], ["verify"]):
            ada.ok(*command)
        status, out, err = ada("registry", "audit", server.url)
        has_log = change in (begun_again, another_log)
        assert ("M558" in err, status) == (not has_log, 0 if has_log else 1)


def test_another_machine_sees_a_log_that_went_back_or_was_forked(
    one: LoggedRegistry, machine: Callable[[str], Machine]
) -> None:
    ada = machine("ada")
    old, fork = forked(one, "old"), forked(one, "fork")
    grow(one, 5)
    ada.ok("lock")
    lock = (ada.app / "modpkg.lock").read_bytes()
    grow(fork, 7, "n")
    shutil.copytree(one.folder, one.folder.parent / "true")
    for number, (other, code) in enumerate([(old, "M553"), (fork, "M552")]):
        replace(one, other.folder)
        for name in ("lock", "install"):
            bob = machine(f"bob-{number}-{name}")
            assert "modpkg.lock" in bob.fails(code, name)
        assert (ada.app / "modpkg.lock").read_bytes() == lock
    replace(one, one.folder.parent / "true")
    bob.ok("install")
    replace(one, fork.folder)
    flaws = json.loads(bob("verify", "--json")[1])["flaws"]
    assert {flaw["code"] for flaw in flaws} == {"M552"}


def test_who_audits_or_witnesses_is_held_to_the_lock(
    one: LoggedRegistry, machine: Callable[[str], Machine], tmp_path: Path
) -> None:
    old = forked(one, "old")
    grow(one, 5)
    machine("ada").ok("lock")
    replace(one, old.folder)
    bob = machine("bob")
    status, out, _ = bob("registry", "audit", str(one.folder), "--json")
    kinds = [found["kind"] for found in json.loads(out)["differences"]]
    assert (status, kinds) == (1, ["history"])
    key = str(tmp_path / "models.pem")
    witness = ("registry", "witness", str(one.folder), "--key", key, "--name", "w.example")
    assert "modpkg.lock" in bob.fails("M553", *witness)
    bob.ok("registry", "trust", "forget", "--log", str(one.folder))
    bob.ok(*witness)


def test_a_registry_with_a_signed_index_and_a_log_is_forgotten_one_by_one() -> None:
    digest = "sha256:" + "0" * 64
    both = LockedRegistry(
        address="a",
        root=digest,
        root_version=1,
        snapshot=2,
        log=ORIGIN,
        log_key=str(key(1).public),
        log_size=3,
        log_root=digest,
    )
    other = structs.replace(both, address="b")
    lock = Lock(requirements=[], registry=[both, other])
    parse_lock(format_lock(lock), Path("modpkg.lock"))
    without = without_seen(lock, lambda where: where == "a", log=True)
    assert [(one.root, one.log) for one in without.registry] == [(digest, ""), (digest, ORIGIN)]
    assert log_of(without.registry[0]) is None
    without = without_seen(lock, lambda where: where == "a", log=False)
    assert [(one.root, one.log) for one in without.registry] == [("", ORIGIN), (digest, ORIGIN)]
    without = without_seen(without, lambda where: where == "a", log=True)
    assert [one.address for one in without.registry] == ["b"]
    state = log_of(both)
    assert state is not None
    assert (state.log.origin, state.checkpoint.size, state.checkpoint.root) == (
        ORIGIN,
        3,
        bytes(32),
    )


def test_a_lock_of_somebody_who_was_shown_something_else(
    one: LoggedRegistry, machine: Callable[[str], Machine]
) -> None:
    """Bob has seen more of the true log than the lock has of another, and asks nevertheless."""
    fork = forked(one, "fork")
    grow(one, 7)
    bob = machine("bob")
    bob.ok("lock")
    (bob.app / "modpkg.lock").unlink()
    shutil.copytree(one.folder, one.folder.parent / "true")
    fork.publish("words", "2.0")
    replace(one, fork.folder)
    machine("ada").ok("lock")
    replace(one, one.folder.parent / "true")
    shutil.copytree(fork.folder / "blobs", one.folder / "blobs", dirs_exist_ok=True)
    assert "modpkg.lock" in bob.fails("M552", "install")


def test_an_install_asks_once_whether_the_log_continues_what_the_lock_has(
    one: LoggedRegistry, machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("ada").ok("lock")
    grow(one, 3)
    bob = machine("bob")
    bob.ok("install")
    asked: list[object] = []
    monkeypatch.setattr("modpkg.trust.log.checking.signed_checkpoint", asked.append)
    bob.ok("install")
    bob.ok("lock")
    bob.ok("install", "--frozen")
    assert asked == []


def test_what_was_seen_of_a_log_is_read_once_for_all_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged_registry = LoggedRegistry(tmp_path / "models").begin()
    registry = Registry(str(logged_registry.folder))
    state = LogState(LogInfo(ORIGIN, "key"), LogCheckpoint(ORIGIN, 1, bytes(32)))
    modules = [
        LockedModule(
            name=f"m{n}", version="1", kind="base", registry="r", release="sha256:" + "0" * 64
        )
        for n in range(9)
    ]
    reads = []
    monkeypatch.setattr(logged.LogMemory, "read", lambda self: reads.append(self.path))
    monkeypatch.setattr(logged, "_checked", lambda *args: None)
    logged.check_locked_releases(
        Lock(requirements=[], module=modules),
        {module.name: registry for module in modules},
        lambda registry: state,
        is_new=True,
        fetched=[],
        warn=pytest.fail,
    )
    assert len(reads) == 1


def test_what_was_locked_offline_is_asked_for_later(
    one: LoggedRegistry,
    machine: Callable[[str], Machine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checking, "SMALL", 0)
    with serve(one.folder) as server:
        path = tmp_path / "app" / "modpkg.toml"
        path.write_text(path.read_text().replace(str(one.folder), server.url))
        asked_for_later(one, machine)


def asked_for_later(one: LoggedRegistry, machine: Callable[[str], Machine]) -> None:
    ada = machine("ada")
    ada.ok("lock")
    lines = [one.publish(name) for name in ("tags", "more")]
    for line in lines:
        ada.ok("info", line.name)
    add(ada.app, "tags", "more")
    ada.ok("lock", "--offline")
    before = (ada.app / "modpkg.lock").read_bytes()
    assert unlogged(ada.app) == ["tags", "more"]
    ada.ok("lock", "--offline")  # it stays so
    assert (ada.app / "modpkg.lock").read_bytes() == before
    place = one.folder / logged_path(parse_digest(lines[0].release))
    kept = place.read_bytes()
    place.unlink()
    for arguments in (["lock"], ["install"], ["install", "--frozen"]):
        for somebody in (ada, machine("bob")):
            assert "tags" in somebody.fails("M554", *arguments)
    place.write_bytes(kept)
    ada.ok("install", "--frozen")
    assert (ada.app / "modpkg.lock").read_bytes() == before
    ada.ok("install")
    assert unlogged(ada.app) == []
    (ada.app / "modpkg.lock").write_bytes(before)
    ada.ok("lock")
    assert unlogged(ada.app) == []


def test_what_was_locked_before_there_was_a_log_is_asked_for_once(
    tmp_path: Path, machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "SMALL", 0)
    ada = machine("ada")
    plain = LoggedRegistry(tmp_path / "plain")
    (ada.app / "modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\nwords = "*"\n'
        f'[registries]\ndefault = "{plain.folder}"\n'
    )
    line = plain.publish("words")
    ada.ok("lock")
    assert "[[registry]]" not in (ada.app / "modpkg.lock").read_text()
    plain.begin()
    place = plain.folder / logged_path(parse_digest(line.release))
    kept = place.read_bytes()
    place.unlink()
    ada.fails("M554", "lock")
    place.write_bytes(kept)
    ada.ok("lock")
    assert locked(ada.app)["log-size"] == 1


def test_verify_fails_where_a_known_log_is_hidden(
    one: LoggedRegistry, machine: Callable[[str], Machine], tmp_path: Path
) -> None:
    """The registry is gone; the memory knows its log, and else the lock does."""
    bob = machine("bob")
    bob.ok("install")
    one.folder.rename(tmp_path / "away")
    for _ in range(2):
        status, out, err = bob("verify")
        assert (status, "flawed[M542] words 1.0" in out) == (1, True), err
        assert (out.count("--offline"), out.count("try again")) == (1, 1), out
        shutil.rmtree(bob.home / "logs", ignore_errors=True)
    bob.ok("verify", "--offline")


@pytest.mark.parametrize("is_served", [False, True])
def test_an_install_goes_on_without_a_registry_of_which_it_fetches_nothing(
    is_served: bool,
    one: LoggedRegistry,
    machine: Callable[[str], Machine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has seen that the log continues the lock asks for nothing; another one is warned."""
    ada = machine("ada")
    with serve(one.folder) if is_served else nullcontext() as server:
        if server is not None:
            path = tmp_path / "app" / "modpkg.toml"
            path.write_text(path.read_text().replace(str(one.folder), server.url))
        ada.ok("install")
    one.folder.rename(tmp_path / "away")
    monkeypatch.setattr(ObjectSource, "RETRIES", 0)
    shutil.rmtree(ada.app / ".modpkg")
    assert "warning" not in ada.ok("install")
    shutil.rmtree(ada.app / ".modpkg")
    shutil.rmtree(ada.home / "logs")
    assert "whether it continues modpkg.lock" in ada.ok("install")
    status, out, _ = ada("verify")
    assert (status, "flawed[M542] words 1.0" in out) == (1, True)


@pytest.mark.parametrize("left_out", ["log", "log-key", "log-root"])
def test_a_lock_that_has_a_part_of_a_log_is_refused(
    left_out: str, one: LoggedRegistry, machine: Callable[[str], Machine]
) -> None:
    machine("ada").ok("lock")
    path = Path("modpkg.lock")
    lines = path.read_text().splitlines(True)
    text = "".join(line for line in lines if not line.startswith(f"{left_out} ="))
    with raises("M410", match="only a part"):
        parse_lock(text, path)
