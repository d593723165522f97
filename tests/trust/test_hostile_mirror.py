"""A mirror without keys: it sends what it likes of what is not verified, as slowly as it likes."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tomli

from modpkg.core import bounds
from modpkg.core.errors import RegistryUnreachable
from modpkg.core.names import parse_requirement
from modpkg.core.records import IndexLine
from modpkg.manifest.limits import DEFAULTS
from modpkg.registry.allowance import Allowance
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.mutable_files import MutableFiles
from modpkg.registry.reader import Registry
from modpkg.registry.source import FileMissing
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.need import root_needs
from modpkg.resolve.resolve import resolve
from modpkg.trust import signed_index
from modpkg.trust.log.appending import LogWriter
from modpkg.trust.signed_index import SignedIndex
from tests.cli.test_everywhere import run
from tests.raising import raises
from tests.registry.servers import Handler, Server, serve
from tests.trust.signed_registry import HostileSource, SignedRegistry
from tests.trust.test_hostile_registry import HostileRegistry, hostile, kept, key, server
from tests.trust.test_signed_index import line

Capture = pytest.CaptureFixture[str]
__all__ = ["hostile", "kept", "server"]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_index, "PAUSE", 0)


# What is not verified, and names what is required -----------------------------------------------


def read_by(mirror: HostileSource, home: HostileSource, registry: SignedRegistry) -> list[str]:
    """Return the modules that a command resolves which reads a mirror first."""
    opened = Registry(home.url, source=mirror)  # type: ignore[arg-type]
    opened.files.home = home
    signed = SignedIndex(mirror, home, lambda: home.read("registry.json"), now=registry.clock)
    opened.files.checks = signed
    roots = root_needs("top", (), parse_requirement("top").specifier, "")
    return sorted(resolve(roots, Catalog(opened)).modules)


def test_nobody_waits_for_what_it_makes_up(tmp_path: Path) -> None:
    registry = SignedRegistry(tmp_path / "registry")
    registry.publish("top", line("top"))
    home, mirror = HostileSource(registry.folder), HostileSource(registry.folder)
    names = [f"n{number}" for number in range(2000)]
    mirror.shown["index/top.jsonl"] = line("top", *names)
    is_asked, is_over = threading.Event(), threading.Event()

    def before_read(path: str) -> None:
        if path.startswith("index/n"):
            is_asked.set()
            assert is_over.wait(300)
        if path.startswith("tuf/"):
            assert is_asked.wait(300)

    mirror.before_read = before_read
    try:
        assert read_by(mirror, home, registry) == ["top"]
    finally:
        is_over.set()
    asked = [path for path in mirror.asked if path.startswith("index/n")]
    assert len(asked) <= bounds.HINTED_FILES


def test_what_it_makes_up_is_not_followed_for_ever(tmp_path: Path) -> None:
    registry = SignedRegistry(tmp_path / "registry")
    registry.publish("top", line("top"))
    home, mirror = HostileSource(registry.folder), HostileSource(registry.folder)
    mirror.shown["index/top.jsonl"] = line("top", "n0")
    most = Allowance(home.url, DEFAULTS).hints
    is_done = threading.Event()

    def before_read(path: str) -> None:
        if path.startswith("index/n"):
            number = int(path[len("index/n") : -len(".jsonl")])
            mirror.shown[path] = line(f"n{number}", f"n{number + 1}")
            if number == most - 1:
                is_done.set()
        if path.startswith("tuf/"):
            assert is_done.wait(300)

    mirror.before_read = before_read
    assert read_by(mirror, home, registry) == ["top"]
    assert f"index/n{most}.jsonl" not in mirror.asked


def test_a_long_file_that_is_needed_is_asked_for_again(tmp_path: Path) -> None:
    registry = SignedRegistry(tmp_path / "registry")
    registry.publish("top", line("top", "middle"))
    long = b"#" * bounds.HINTED_FILE_BYTES + b"\n" + line("middle")
    registry.publish("middle", long)
    home = HostileSource(registry.folder)
    is_asked = threading.Event()

    def before_read(path: str) -> None:
        if path == "index/middle.jsonl":
            is_asked.set()
        if path.startswith("tuf/"):
            assert is_asked.wait(300)

    home.before_read = before_read
    home.shown["index/middle.jsonl"] = long
    assert read_by(home, home, registry) == ["middle", "top"]
    assert home.asked.count("index/middle.jsonl") == 2


def test_hints_take_an_eighth_of_what_a_command_may() -> None:
    for limits, most in (
        (DEFAULTS, 250),
        ({**DEFAULTS, "names": 80}, 10),
        ({**DEFAULTS, "requests": 40}, 5),
        ({**DEFAULTS, "index-bytes": 16 * bounds.HINTED_FILE_BYTES}, 2),
    ):
        assert Allowance("https://models.example", limits).hints == most


@pytest.fixture
def mirror(hostile: HostileRegistry, tmp_path: Path) -> Iterator[Server]:
    """A copy of the registry, before anything is changed, that is asked first."""
    with serve(shutil.copytree(hostile.folder, tmp_path / "mirror")) as running:
        yield running


def begin(server: Server, mirror: Server, tmp_path: Path, home: Path, more: str = "") -> Path:
    """Make a project, and let its user read the mirror."""
    app = tmp_path / "app"
    app.mkdir()
    mirrors = f'[registry."{server.url}"]\nmirrors = ["{mirror.url}"]\n'
    (home / "config.toml").write_text(f"{more}{mirrors}")
    (app / "modpkg.toml").write_text(
        f'[app]\nname = "app"\n[registries]\ndefault = "{server.url}"\n'
        '[dependencies]\nwords = "*"\n'
    )
    return app


@pytest.mark.parametrize("server", ["signed"], indirect=True)
def test_what_it_makes_up_spends_no_budget(
    server: Server,
    mirror: Server,
    home: Path,
    tmp_path: Path,
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = begin(server, mirror, tmp_path, home, '[limits]\nindex-bytes = "1 MB"\n')
    index = mirror.folder / "index"
    (mirror.folder / "modules.jsonl").unlink(missing_ok=True)
    names = [f"n{number}" for number in range(40)]
    lines = (index / "words.jsonl").read_bytes().splitlines()
    last = json.loads(lines[-1]) | {"requires": names}
    (index / "words.jsonl").write_bytes(json.dumps(last).encode() + b"\n")
    for name in names:
        (index / f"{name}.jsonl").write_bytes(b"#" * 60_000 + b"\n" + line(name))
    monkeypatch.chdir(app)
    status, _, err = run(capfd, "lock")
    assert status == 0, err
    assert not any((home / "store").glob("index-cache/*/index/n*.jsonl"))


# What vouches for releases ----------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"x\n", b"mallory"])
def test_it_does_not_say_who_has_signed(
    data: bytes,
    server: Server,
    hostile: HostileRegistry,
    mirror: Server,
    home: Path,
    tmp_path: Path,
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor does it sign as somebody of its own, where nobody knows who should have."""
    app = begin(server, mirror, tmp_path, home)
    forger = HostileRegistry(mirror.folder)
    for one in forger.lines():
        forger.signatures(one["release"]).write_bytes(data)
        if data == b"mallory":
            forger.sign(one)
    monkeypatch.chdir(app)
    status, _, err = run(capfd, "lock")
    assert status == 0, err
    (module,) = tomli.loads((app / "modpkg.lock").read_text())["module"]
    assert module["signer"] == str(key("ada").public)


@pytest.mark.parametrize("server", ["signed"], indirect=True)
@pytest.mark.parametrize("small", [8, 0])
def test_a_log_that_it_damages_is_read_without_it(
    small: int,
    server: Server,
    mirror: Server,
    home: Path,
    tmp_path: Path,
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("modpkg.trust.log.checking.SMALL", small)
    app = begin(server, mirror, tmp_path, home)
    for path in (mirror.folder / "log").rglob("*"):
        if path.is_file():
            path.write_bytes(b"x" * path.stat().st_size)
    monkeypatch.chdir(app)
    status, _, err = run(capfd, "lock")
    assert status == 0, err


@pytest.mark.parametrize("server", ["signed"], indirect=True)
@pytest.mark.parametrize("first", [1, 2])
def test_a_log_of_its_own_is_not_believed(
    first: int,
    server: Server,
    hostile: HostileRegistry,
    mirror: Server,
    home: Path,
    tmp_path: Path,
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody without keys, between all of them, has a log of the same entries with a key of his;
    ``first`` is from which question on he answers with his ``registry.json``."""
    app = begin(server, mirror, tmp_path, home)
    fake = shutil.copytree(server.folder, tmp_path / "fake", ignore=_without_trust)
    info = json.loads((fake / "registry.json").read_text())
    origin = info.pop("log")["origin"]
    (fake / "registry.json").write_text(json.dumps(info))
    LogWriter(FolderPlace(fake), key("mallory")).begin(origin, FolderPlace(fake))
    asked: list[str] = []

    def fault(handler: Handler, number: int) -> bool:
        path = handler.path.lstrip("/")
        asked.append(path)
        is_info = path == "registry.json" and asked.count(path) >= first
        if not is_info and not path.startswith("log/"):
            return False
        file = fake / path
        handler.answer(200, file.read_bytes()) if file.exists() else handler.answer(404)
        return True

    def without_log(handler: Handler, number: int) -> bool:
        if handler.path.startswith("/log/"):
            handler.answer(404)
            return True
        return False

    server.fault, mirror.fault = fault, without_log
    monkeypatch.chdir(app)
    status, _, err = run(capfd, "lock")
    assert status == 1
    assert "error[M564]" in err or "error[M550]" in err
    assert not (app / "modpkg.lock").exists()
    assert not [*(home / "logs").glob("*.json")]


def _without_trust(folder: str, names: list[str]) -> set[str]:
    return {"log", "tuf"} & set(names)


def test_what_vouches_is_a_mirrors_where_the_registry_is_silent(tmp_path: Path) -> None:
    registry = SignedRegistry(tmp_path / "registry")
    home, mirror = HostileSource(registry.folder), HostileSource(registry.folder)
    mirror.shown = {"successors/a.jsonl": b"mirror", "successors/b.jsonl": b"mirror"}
    home.shown = {"successors/a.jsonl": b"home", "successors/b.jsonl": None}
    files = MutableFiles(mirror, None, offline=False, home=home)
    assert files.vouching_file("successors/a.jsonl", 10) == b"home"
    with pytest.raises(FileMissing):
        files.vouching_file("successors/b.jsonl", 10)

    def silent(path: str) -> None:
        raise RegistryUnreachable("M302", url=home.url, reason="silent")

    home.before_read = silent
    for _ in range(2):
        assert files.vouching_file("successors/a.jsonl", 10) == b"mirror"
    assert home.asked.count("successors/a.jsonl") == 2
    mirror.before_read = silent
    with raises("M302", match="silent"):
        files.vouching_file("successors/a.jsonl", 10)


@pytest.mark.parametrize("server", ["signed"], indirect=True)
def test_a_registry_that_is_gone_has_no_other_log_by_that(
    server: Server,
    mirror: Server,
    home: Path,
    tmp_path: Path,
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its mirror is there, and has what is not signed: the log is asked of the registry."""
    app = begin(server, mirror, tmp_path, home)
    monkeypatch.chdir(app)
    assert run(capfd, "lock")[0] == 0
    shutil.rmtree(home / "logs")

    def gone(handler: Handler, number: int) -> bool:
        handler.answer(404)
        return True

    server.fault = gone
    status, _, err = run(capfd, "lock", "--upgrade")
    assert (status, "error[M301]" in err) == (1, True), err


def test_what_vouches_is_kept_ahead_up_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "VOUCHING_AHEAD_BYTES", 250)
    registry = SignedRegistry(tmp_path / "registry")
    source = HostileSource(registry.folder)
    paths = [f"signatures/{number}.jsonl" for number in range(4)]
    source.shown = dict.fromkeys(paths, b"x" * 100)
    files = MutableFiles(source, None, offline=False)
    files.vouching = lambda line: iter([(path, 1000) for path in paths])
    some = IndexLine(name="a", version="1.0", kind="collection", release="sha256:" + "00" * 32)
    for _ in range(2):  # what is taken makes room
        source.asked.clear()
        with ThreadPoolExecutor(1) as pool:
            files.prefetch_vouching(some, pool)
        assert source.asked == paths
        assert [files.vouching_file(path, 1000) for path in paths] == [b"x" * 100] * 4
        assert source.asked == [*paths, *paths[2:]]
