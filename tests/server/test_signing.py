"""A server that signs its index: what it publishes is taken by readers, at every moment."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from litestar.testing import TestClient
from msgspec import structs

from modpkg.core.progress import Progress
from modpkg.environment.signed_registries import verify_index
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.reader import Registry
from modpkg.registry.source import FileMissing
from modpkg.registry.writer import RegistryWriter
from modpkg.server import signing
from modpkg.server.app import make_app
from modpkg.server.file_answers import ServerApp
from modpkg.server.settings import ServerSettings
from modpkg.server.signing import sign_again
from modpkg.server.state import Server
from modpkg.trust import signed_index
from modpkg.trust.log.audit import audit_log
from modpkg.trust.log.checking import check_logged
from modpkg.trust.log.memory import LogMemory
from modpkg.trust.metadata_writer import MetadataWriter
from modpkg.trust.private_key import new_key, read_key
from modpkg.trust.root_metadata import name_root, new_root, signed_root, write_root
from modpkg.trust.signed_index import SignedIndex
from tests.changing import numbers, write
from tests.cli.test_everywhere import run
from tests.raising import raises
from tests.server.conftest import token_for
from tests.server.publisher import Publisher, built

TENSORS = numbers("a", "b")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_index, "PAUSE", 0)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The folder of a server's key, whose registry's root names it."""
    folder = tmp_path / "keys"
    folder.mkdir()
    new_key(folder / "online.pem", "ed25519", None)
    new_key(tmp_path / "root.pem", "ecdsa-p256", None)
    online = read_key(folder / "online.pem", str)
    person = read_key(tmp_path / "root.pem", str)
    place = FolderPlace(tmp_path / "registry")
    place.prepare("test")
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=9)
    data = signed_root(new_root(1, [person.public], 1, online.public, until), [person], None)
    write_root(place, data, None)
    name_root(place, data)
    MetadataWriter(place, [online]).sign_all(bits=2)
    return folder


@pytest.fixture
def server(tmp_path: Path, keys: Path) -> Iterator[Server]:
    """A server that signs."""
    made = Server(
        ServerSettings(storage=str(tmp_path / "registry"), name="test", tuf_keys=str(keys))
    )
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def client(server: Server) -> Iterator[TestClient[ServerApp]]:
    with TestClient(make_app(server)) as made:
        yield made


@pytest.fixture
def ada(server: Server, client: TestClient[ServerApp]) -> Publisher:
    return Publisher(client, token_for(server, "ada"))


class Reader:
    """Somebody who reads the registry over HTTP, with his own memory."""

    def __init__(self, who: Publisher, folder: Path) -> None:
        self._who = who
        self.url = "https://models.example"
        self._folder = folder

    def read(self, path: str, most: int = 0) -> bytes:
        answer = self._who.client.get(f"/{path}", headers=self._who.headers)
        if answer.status_code == 404:
            raise FileMissing(path)
        assert answer.status_code == 200
        return answer.content

    def index(self, name: str) -> bytes | None:
        """Return an index file, verified."""

        def once() -> bytes | None:
            with suppress(FileMissing):
                return self.read(f"index/{name}.jsonl")
            return None

        signed = SignedIndex(
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            lambda: self.read("registry.json"),
            folder=self._folder,
        )
        return signed.checked(f"index/{name}.jsonl", once(), once)


def test_what_a_server_publishes_is_signed(server: Server, ada: Publisher, tmp_path: Path) -> None:
    reader = Reader(ada, tmp_path / "memory")
    assert reader.index("m") is None
    made = built(write(tmp_path / "1", TENSORS), server.place)
    ada.publish(*made)
    assert b'"1.0"' in (reader.index("m") or b"")
    ada.request("POST", "modules/m/yank", json={"version": "1.0", "reason": "bad"})
    assert b'"yanked":"bad"' in (reader.index("m") or b"")
    info = reader.read("registry.json")
    assert b'"api"' in info  # it was announced, and signed, when the server began


def test_a_signed_registry_has_a_log_too(
    server: Server, ada: Publisher, tmp_path: Path, keys: Path
) -> None:
    """The log begins later, by a change of ``registry.json`` that is signed as any other."""
    ada.publish(*built(write(tmp_path / "1", TENSORS), server.place))
    new_key(tmp_path / "log.pem", "ed25519", None)
    folder, key = tmp_path / "registry", str(tmp_path / "log.pem")
    settings = ServerSettings(storage=str(folder), tuf_keys=str(keys), log_key=key)
    for _ in range(2):  # the second goes on with what the first began
        logging = Server(settings)
        logging.prepare()
        with TestClient(make_app(logging)) as client:
            bob = Publisher(client, token_for(logging, "ada"))
            bob.request("POST", "modules/m/yank", json={"version": "1.0", "reason": "bad"})
            bob.request("POST", "modules/m/yank", json={"version": "1.0", "reason": None})
            reader = Reader(bob, tmp_path / "memory")
            assert b'"1.0"' in (reader.index("m") or b"")
            read = partial(reader.read, "registry.json")
            signed = SignedIndex(
                reader,  # type: ignore[arg-type]
                reader,  # type: ignore[arg-type]
                read,
                folder=tmp_path / "memory",
            )
            assert b'"log"' in (signed.checked("registry.json", read(), read) or b"")
        logging.close()
    found = audit_log(
        lambda: Registry(str(folder)), LogMemory("models", tmp_path / "logs"), Progress()
    )
    assert (found.entries, found.differences) == (5, [])


def test_a_private_module_is_signed_too(
    server: Server, ada: Publisher, tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tree, line = built(write(tmp_path / "1", TENSORS), server.place)
    session = ada.declare(tree, line, private=True).json()
    ada.upload(tree, session)
    assert ada.commit(session["id"]).status_code == 200
    reader = Reader(ada, tmp_path / "memory")
    first = reader.index("m")
    assert first is not None
    ada.request("POST", "modules/m/yank", json={"version": "1.0", "reason": "bad"})
    assert b'"yanked":"bad"' in (reader.index("m") or b"")
    assert server.private is not None
    assert server.private.folder is not None
    words = ("registry", "verify", str(tmp_path / "registry"))
    status, out, err = run(capfd, *words)
    assert (status, "(1 of private modules)" in out + err) == (0, True)
    (server.private.folder / "index" / "m.jsonl").write_bytes(first)
    status, out, _ = run(capfd, *words)
    assert (status, "private/index/m.jsonl [M564]" in out) == (1, True)
    with raises("M564", match="not listed"):
        reader.index("m")


def test_what_somebody_else_wrote_is_not_signed(
    server: Server, ada: Publisher, tmp_path: Path
) -> None:
    ada.publish(*built(write(tmp_path / "1", TENSORS), server.place))
    plain = FolderPlace(tmp_path / "registry")
    RegistryWriter(plain).yank("m", "1.0", "a person in the folder")
    tree, line = built(write(tmp_path / "2", numbers("a", "b", "c"), version="1.1"), server.place)
    session = ada.declare(tree, line).json()
    ada.upload(tree, session)
    answer = ada.commit(session["id"])
    assert answer.json()["code"] == "M569"
    with raises("M564", match="digest"):
        Reader(ada, tmp_path / "memory").index("m")


def test_a_server_that_was_killed_between_leaves_nothing_refused(
    server: Server, ada: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(self: MetadataWriter, paths: object) -> list[str]:
        raise Killed

    reader = Reader(ada, tmp_path / "memory")
    tree, line = built(write(tmp_path / "1", TENSORS), server.place)
    with monkeypatch.context() as patched:
        patched.setattr(MetadataWriter, "settle", killed)
        with pytest.raises(Killed):
            RegistryWriter(server.place).publish(Registry(str(tree.root)), line)
    assert b'"1.0"' in (reader.index("m") or b"")
    server.prepare()  # as it begins again
    assert b'"1.0"' in (reader.index("m") or b"")
    assert server.metadata is not None
    assert server.metadata.renew(thoroughly=True) == []


def test_a_signed_registry_is_not_served_without_its_key(tmp_path: Path, keys: Path) -> None:
    server = Server(ServerSettings(storage=str(tmp_path / "registry")))
    with raises("M568", match="--tuf-keys"):
        server.prepare()
    server.close()
    (tmp_path / "none").mkdir()
    with raises("M549", match="online.pem"):
        Server(ServerSettings(storage=str(tmp_path / "registry"), tuf_keys=str(tmp_path / "none")))
    (tmp_path / "other").mkdir()
    new_key(tmp_path / "other" / "online.pem", "ed25519", None)
    storage, own = server.settings.storage, str(tmp_path / "other")
    other = Server(ServerSettings(storage=storage, tuf_keys=own))
    with raises("M568", match="another key"):
        other.prepare()
    other.close()


def test_a_registry_is_read_by_what_is_signed(server: Server, tmp_path: Path) -> None:
    """`Registry`, as a command opens it."""
    folder = tmp_path / "registry"

    def opened() -> Registry:
        made = Registry(str(folder))
        files = made.files
        files.checks = SignedIndex(files.source, files.home, files.info, folder=tmp_path / "memory")
        return made

    assert (opened().name, opened().index("m")) == ("test", [])
    (folder / "index" / "m.jsonl").write_bytes(b"")
    with raises("M564", match="listed"):
        opened().index("m")
    info = folder / "registry.json"
    info.write_bytes(info.read_bytes().replace(b'"test"', b'"best"'))
    with raises("M564", match="registry.json"):
        _ = opened().name


def test_what_nobody_announced_is_logged(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(
        signing, "log", lambda what, **fields: seen.append((what, fields.get("path")))
    )
    assert server.metadata is not None
    server.metadata.announce("index/m.jsonl", None, b"one")
    (tmp_path / "registry" / "index" / "m.jsonl").write_bytes(b"other")
    sign_again(server.metadata, thoroughly=True)
    assert ("unsigned", "index/m.jsonl") in seen


def test_that_the_root_expires_soon_is_logged(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(signing, "log", lambda what, **fields: seen.append(what))
    assert server.metadata is not None
    sign_again(server.metadata, thoroughly=False)
    assert seen == []
    sign_again(server.metadata, thoroughly=True)
    assert seen == ["root-expires"]  # in 9 days
    monkeypatch.setattr(signing, "ROOT_WARNING", datetime.timedelta(days=8))
    sign_again(server.metadata, thoroughly=True)
    assert seen == ["root-expires"]


def test_the_key_of_the_log_of_a_signed_registry_is_exchanged(
    server: Server, ada: Publisher, tmp_path: Path
) -> None:
    keys = [str(tmp_path / f"{name}.pem") for name in ("old", "new")]
    for path in keys:
        new_key(Path(path), "ed25519", None)
    line = None
    for log_key, before in ((keys[0], None), (keys[1], keys[0]), (keys[1], None)):
        settings = structs.replace(server.settings, log_key=log_key, log_key_before=before)
        logged = Server(settings)
        logged.prepare()
        if line is None:
            tree, line = built(write(tmp_path / "1", TENSORS), logged.place)
            RegistryWriter(logged.place).publish(Registry(str(tree.root)), line)
        logged.close()
        reader = Reader(ada, tmp_path / "memory")
        assert b'"1.0"' in (reader.index("m") or b"")
        registry = Registry(str(tmp_path / "registry"))
        verify_index(registry.files)
        state = check_logged(registry, [line], LogMemory("models", tmp_path / "logs"))
        assert state is not None
        assert state.log.key == str(read_key(Path(log_key), str).public)


def test_a_registry_with_a_log_is_signed_too(
    server: Server, ada: Publisher, tmp_path: Path, keys: Path
) -> None:
    new_key(tmp_path / "log.pem", "ed25519", None)
    settings = structs.replace(server.settings, log_key=str(tmp_path / "log.pem"))
    logged = Server(settings)
    logged.prepare()
    tree, line = built(write(tmp_path / "1", TENSORS), logged.place)
    RegistryWriter(logged.place).publish(Registry(str(tree.root)), line)
    logged.close()
    reader = Reader(ada, tmp_path / "memory")
    assert b'"1.0"' in (reader.index("m") or b"")
    assert b'"log"' in reader.read("registry.json")
    assert reader.index("missing") is None
