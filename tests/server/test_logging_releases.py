"""A server with a log: what is published there is logged, served and checked by who locks it."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import msgspec
import pytest

from modpkg.core.digests import parse_digest
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.place import registry_at
from modpkg.registry.reader import Registry
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.trust.log import checking
from modpkg.trust.log.audit import audit_log
from modpkg.trust.log.checking import check_logged
from modpkg.trust.log.entries import logged_path, transfer_entry
from modpkg.trust.log.memory import LogMemory
from modpkg.trust.private_key import new_key
from tests.changing import numbers, write
from tests.cli.test_everywhere import run
from tests.modules import publish_collection
from tests.raising import raises
from tests.registry.s3 import running_s3, use_s3
from tests.server.conftest import token_for
from tests.server.live import live_server
from tests.server.publisher import Publisher, built
from tests.trust.log.logged import actions_of

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def key(tmp_path: Path) -> str:
    new_key(tmp_path / "log.pem", "ed25519", None)
    return str(tmp_path / "log.pem")


def test_what_is_published_is_logged_served_and_checked(
    home: Path, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setattr(checking, "SMALL", 0)  # where releases are is asked for, as of a large log
    storage = tmp_path / "registry"
    publish_collection(storage, "before")
    with live_server(storage, log_key=key) as server:
        url = server.settings.url
        with httpx.Client(base_url=url, trust_env=False, timeout=120) as client:
            ada = Publisher(client, token_for(server, "ada"))
            bob = Publisher(client, token_for(server, "bob"))
            tree, line = built(write(tmp_path / "m", numbers("a", "b")), FolderPlace(storage))
            ada.publish(tree, line)
            hidden = write(tmp_path / "h", numbers("a", "b", seed=2), name="hidden")
            ada.publish(*built(hidden, FolderPlace(storage)), private=True)
            for path, data in (
                ("yank", {"version": "1.0", "reason": "slow"}),
                ("deprecate", {"version": "1.0", "reason": "old"}),
                ("transfer", {"to": "bob"}),
            ):
                answer = ada.request("POST", f"modules/m/{path}", json=data)
                assert answer.status_code < 300, answer.text
            assert bob.request("POST", "modules/m/transfer/accept").status_code == 204
            expected = [
                ("publish", "before", "1.0"),
                ("publish", "m", "1.0"),
                ("publish", "", ""),
                ("yank", "m", "1.0"),
                ("deprecate", "m", "1.0"),
                ("transfer", "m", ""),
            ]
            assert actions_of(storage) == expected
            kinds = {
                "log/checkpoint": "text/plain",
                "log/tile/0/000.p/6": "application/octet-stream",
                "log/tile/entries/000.p/6": "application/octet-stream",
                logged_path(parse_digest(line.release)): "application/json",
            }
            for path, kind in kinds.items():
                answer = client.get(f"/{path}")
                assert answer.status_code == 200
                assert answer.headers["content-type"].startswith(kind)
            assert client.get("/log/decided.json").status_code == 404
        found = audit_log(lambda: Registry(url), LogMemory(url, tmp_path / "seen"), Progress())
        assert (found.differences, found.private, found.releases) == ([], 1, 2)
        assert server.private is not None
        (secret,) = registry_at(server.private).index("hidden")
        check_logged(Registry(url), [secret], LogMemory(url, tmp_path / "seen"))
        with raises("M554", match="something else"):  # it is not passed off as another module
            other = msgspec.structs.replace(secret, name="m")
            check_logged(Registry(url), [other], LogMemory(url, tmp_path / "seen"))

        app = tmp_path / "app"
        app.mkdir()
        monkeypatch.chdir(app)
        manifest = f'[app]\nname = "app"\n[registries]\ndefault = "{url}"\n[dependencies]\n'
        (app / "modpkg.toml").write_text(f'{manifest}m = "==1.0"\n')
        status, _, err = run(capfd, "lock")
        assert status == 0, err
        before = (app / "modpkg.lock").read_bytes()
        told = msgspec.json.decode((storage / "index/before.jsonl").read_bytes(), type=IndexLine)
        (storage / logged_path(parse_digest(told.release))).unlink()
        (app / "modpkg.toml").write_text(f'{manifest}m = "==1.0"\nbefore = "*"\n')
        status, _, err = run(capfd, "lock")
        assert (status, "error[M554]" in err) == (1, True), err
        assert (app / "modpkg.lock").read_bytes() == before
    with raises("M557", match="--log-key"):
        Server(ServerSettings(storage=str(storage))).prepare()


def test_servers_on_one_bucket_have_one_log(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody holds a lock there: each entry is there once, and the root is that of all."""
    with running_s3() as url:
        use_s3(monkeypatch, url)
        httpx.put(f"{url}/bucket", trust_env=False, timeout=120)
        settings = ServerSettings(
            storage="s3://bucket/logged",
            database=f"sqlite:///{tmp_path / 'server.sqlite3'}",
            name="test",
            log_key=key,
        )
        servers = [Server(settings) for _ in range(3)]
        servers[0].prepare()

        def add(server: Server, number: int) -> None:
            assert server.log is not None
            for at in range(4):
                name = f"m{number}-{at}"
                server.log.append([transfer_entry(name, "bob", "2026-01-01T00:00:00Z")])

        threads = [threading.Thread(target=add, args=(one, i)) for i, one in enumerate(servers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        memory = LogMemory("s3://bucket/logged", tmp_path / "seen")
        found = audit_log(servers[0].registry, memory, Progress())
        assert (found.entries, found.differences) == (12, [])
        for server in servers:
            server.close()
