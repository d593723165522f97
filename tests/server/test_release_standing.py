"""Yanking, deprecating, archiving and removing on a server, and advisories: who may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from modpkg.core import bounds
from modpkg.core.progress import Progress
from modpkg.manifest.config import Settings
from modpkg.manifest.logins import SentToken
from modpkg.registry.copying import copy_releases
from modpkg.registry.opening import open_place
from modpkg.registry.reader import Registry
from modpkg.registry.removing import remove_release
from modpkg.registry.server_writer import ServerWriter, writer_at
from modpkg.registry.upkeep import open_alone
from modpkg.registry.writer import RegistryWriter
from modpkg.server.accounts import make_administrator
from modpkg.server.clock import now
from modpkg.server.state import Server
from modpkg.server.tables import Account, Event, Module, Role
from modpkg.trust.bundle import sign_statement
from modpkg.trust.statement import keys_of_module, succession_statement
from modpkg.trust.successors import successions_of
from tests.modules import publish_collection, write_module
from tests.raising import raises
from tests.registry.test_advisories import INTRODUCED, document
from tests.server.conftest import token_for
from tests.server.live import live_server
from tests.server.publisher import built
from tests.trust.signed_registry import key


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, str]]]:
    """A server with ada, who owns lib, bob, who has no role, and root, an administrator."""
    folder = tmp_path_factory.mktemp("live") / "registry"
    with live_server(folder) as server:
        tokens = {name: token_for(server, name) for name in ("ada", "bob", "root-a")}
        make_administrator(server.database, "root-a")
        with server.database.begin() as db:
            ada = db.query(Account).filter_by(name="ada").one()
            for name in ("lib", "other", "hidden"):
                db.add(Module(name=name, is_private=name == "hidden", created=now()))
                db.flush()
                db.add(Role(module=name, account_id=ada.id, role="owner"))
        for version in ("1.0", "2.0"):
            publish_collection(folder, "lib", version)
        publish_collection(folder, "other", "1.0")
        assert server.private is not None
        publish_collection(folder / "private", "hidden", "1.0")
        yield server, tokens


Live = tuple[Server, dict[str, str]]


def writer(live: Live, name: str | None) -> ServerWriter:
    server, tokens = live
    url = server.settings.url
    logins = {} if name is None else {url: SentToken(tokens[name])}
    made = writer_at(open_place(url, Settings(logins=logins)))
    assert isinstance(made, ServerWriter)
    return made


def events(live: Live, module: str) -> list[tuple[str, str, str | None]]:
    with live[0].database.begin() as db:
        rows = db.query(Event).filter_by(module=module).order_by(Event.id)
        return [(row.actor, row.action, row.version) for row in rows]


def test_maintainers_yank_and_deprecate(live: Live) -> None:
    ada = writer(live, "ada")
    assert ada.yank("lib", "1.0", "bad").yanked == "bad"
    assert ada.yank("lib", "1.0.0", None).yanked is None
    changed = ada.deprecate("lib", None, "old", "other >= 1")
    assert [(one.version, one.deprecated, one.successor) for one in changed] == [
        ("1.0", "old", "other>=1"),
        ("2.0", "old", "other>=1"),
    ]
    read = Registry(live[0].settings.url)
    assert [one.deprecated for one in read.index("lib")] == ["old", "old"]
    ada.deprecate("lib", "2.0", None)
    own = [one for one in events(live, "lib") if one[1] in ("yank", "unyank", "deprecate")]
    assert own == [
        ("ada", "yank", "1.0"),
        ("ada", "unyank", "1.0"),
        ("ada", "deprecate", "1.0"),
        ("ada", "deprecate", "2.0"),
    ]
    for bundle in (b"{}", b"words"):
        with raises("M541"):
            ada.yank("lib", "1.0", "bad", bundle)
    assert Registry(live[0].settings.url).line("lib", "1.0").yanked is None
    with raises("M312"):
        ada.yank("lib", "9", "x")
    with raises("M439"):
        ada.yank("nothing", "1", "x")


def named(number: int, after: int, name: str = "lib") -> bytes:
    """Return what one key of tests signs of the one after it."""
    statement = succession_statement(keys_of_module(name), key(after).public, [])
    return sign_statement(statement, key(number))


def test_a_signer_names_the_one_after_it(live: Live, tmp_path: Path) -> None:
    ada = writer(live, "ada")
    assert [line.succeeded for line in ada.succeed("lib", named(1, 2))] == [True, True]
    read = Registry(live[0].settings.url)
    assert [one.after for one in successions_of(read, "lib").named] == [str(key(2).public)]
    assert [line.succeeded for line in read.index("lib")] == [True, True]
    ada.succeed("lib", named(1, 2))  # as a copy that is made again
    with raises("M572"):
        ada.succeed("lib", named(1, 3))
    with raises("M541", match="names nobody"):
        ada.succeed("lib", named(2, 3, "other"))
    with raises("M541"):
        ada.succeed("lib", b"{}")
    with raises("M541"):
        ada.succeed("lib", named(2, 3) + b"\n" + named(2, 4))
    assert len(successions_of(read, "lib").named) == 1
    assert ("ada", "succeed", "1.0") in events(live, "lib")


def test_others_may_not(live: Live) -> None:
    bob = writer(live, "bob")
    before = (live[0].place.folder or Path()).joinpath("index/lib.jsonl").read_bytes()
    for refused in (
        lambda: bob.yank("lib", "1.0", "x"),
        lambda: bob.deprecate("lib", None, "x"),
        lambda: bob.succeed("lib", named(1, 2)),
        lambda: bob.archive("lib", "x"),
        lambda: bob.remove("lib", "1.0", "x"),
        lambda: bob.publish_advisories([json.dumps(document(INTRODUCED))]),
    ):
        with raises("M432"):
            refused()
    with raises("M432"):
        writer(live, "ada").remove("lib", "1.0", "x")
    with raises("M521"):
        writer(live, None).yank("lib", "1.0", "x")
    with raises("M439"):  # of a private module nobody else knows
        bob.yank("hidden", "1.0", "x")
    assert (live[0].place.folder or Path()).joinpath("index/lib.jsonl").read_bytes() == before


def test_an_archived_module_stays_as_it_is(live: Live) -> None:
    ada = writer(live, "ada")
    ada.archive("lib", "done")
    with live[0].database.begin() as db:
        assert db.get_one(Module, "lib").archived == "done"
    ada.archive("lib", None)
    ada.archive("lib", None)
    with live[0].database.begin() as db:
        assert db.get_one(Module, "lib").archived is None
    assert [event[1] for event in events(live, "lib")][-2:] == ["archive", "unarchive"]


def test_private_modules_are_changed_where_they_lie(live: Live) -> None:
    assert writer(live, "ada").yank("hidden", "1.0", "bad").yanked == "bad"
    folder = live[0].place.folder
    assert folder is not None
    assert "bad" in (folder / "private" / "index" / "hidden.jsonl").read_text()
    assert not (folder / "index" / "hidden.jsonl").exists()


def test_administrators_remove_for_good(live: Live, tmp_path: Path) -> None:
    root, url = writer(live, "root-a"), live[0].settings.url
    done = remove_release(root, "other", None, "leaked", Progress())
    assert (done.files, [one.removed for one in done.lines]) == (1, ["leaked"])
    assert events(live, "other")[-1] == ("root-a", "remove", "1.0")
    with raises("M482"):
        root.yank("other", "1.0", None)
    project = write_module(tmp_path / "other", "other", "2.0")
    tree, line = built(project, root.place)
    with raises("M481", match="choose another name"):
        writer(live, "ada").publish(Registry(str(tree.root)), line)
    mirror = tmp_path / "mirror"
    origin = open_alone(url, Settings())
    copy_releases(
        origin,
        RegistryWriter(mirror, "test"),
        {name: origin.index(name) for name in ("lib", "other")},
        Progress(),
    )
    assert Registry(str(mirror)).line("other", "1.0").removed == "leaked"


def test_administrators_publish_advisories(live: Live) -> None:
    root = writer(live, "root-a")
    assert root.publish_advisories([json.dumps(document(INTRODUCED))]) == ["ACME-2026-0001"]
    with raises("M209"):
        root.publish_advisories(["{}"])
    assert b"ACME" in Registry(live[0].settings.url).source.read("advisories.jsonl")


def test_an_index_file_longer_than_readers_take_is_refused(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, tokens = live
    with server.database.begin() as db:
        owner = db.query(Account).filter_by(name="ada").one()
        db.add(Module(name="full", created=now()))
        db.flush()
        db.add(Role(module="full", account_id=owner.id, role="owner"))
    folder = server.place.folder or Path()
    publish_collection(folder, "full", "1.0")
    ada, path = writer(live, "ada"), folder / "index/full.jsonl"
    before = path.read_bytes()
    monkeypatch.setattr(bounds, "INDEX_BYTES", len(before) + 100)
    with raises("M593", match=r"answers: index/full\.jsonl would have more than"):
        ada.yank("full", "1.0", 200 * "x")
    with raises("M593"):
        ada.deprecate("full", None, 200 * "x")
    tree, line = built(write_module(tmp_path / "full", "full", "2.0"), server.place)
    with raises("M593"):
        ada.publish(Registry(str(tree.root)), line)
    assert path.read_bytes() == before
    url = f"{server.settings.url}/api/1/modules/full/yank"
    headers = {"Authorization": f"Bearer {tokens['ada']}"}
    answer = httpx.post(url, headers=headers, json={"version": "1.0", "reason": 200 * "x"})
    assert (answer.status_code, answer.json()["code"]) == (413, "M593")
