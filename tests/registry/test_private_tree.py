"""Looking after the private modules of a server, from its storage."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest

from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.progress import Progress
from modpkg.manifest.config import Settings
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.reader import Registry
from modpkg.registry.unnamed import PRIVATE_TREE, private_address, remove_unnamed
from modpkg.registry.upkeep import open_alone
from tests.cli.test_everywhere import run
from tests.modules import publish_collection
from tests.registry.servers import serve
from tests.registry.test_upkeep import flip

LATER = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=30)


@pytest.fixture
def registry(home: Path) -> Path:
    """A storage with a module that everybody may read, and a private one."""
    folder = home / "storage"
    publish_collection(folder, "words")
    publish_collection(folder / PRIVATE_TREE, "secret")
    return folder


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Any:
    def ask(*arguments: str, status: int = 0) -> Any:
        got, out, err = run(capfd, "registry", *arguments, "--json")
        assert got == status, err
        return json.loads(out)

    return ask


def record(tree: Path, name: str) -> str:
    """Return the path of a release record, in its tree."""
    return blob_path(parse_digest(Registry(str(tree)).line(name, "1.0").release))


def test_a_damaged_private_blob_is_named_and_mended(registry: Path, home: Path, ask: Any) -> None:
    storage, path = str(registry), record(registry / PRIVATE_TREE, "secret")
    found = ask("verify", storage)
    assert (found["releases"], found["private"], found["damaged"]) == (2, 1, [])
    assert ask("info", storage)["private"] == 1
    sound = (registry / PRIVATE_TREE / path).read_bytes()
    flip(registry / PRIVATE_TREE / path)
    (damage,) = ask("verify", storage, status=1)["damaged"]
    assert (damage["path"], damage["releases"]) == (f"private/{path}", ["secret 1.0"])
    assert len(ask("verify", storage, "secret", status=1)["damaged"]) == 1
    assert ask("verify", storage, "words")["damaged"] == []
    spare = home / "spare"
    (spare / path).parent.mkdir(parents=True)
    (spare / path).write_bytes(sound)
    (spare / "registry.json").write_bytes((registry / "registry.json").read_bytes())
    Path("modpkg.toml").write_text(f'[app]\nname = "app"\n[registries]\nspare = "{spare}"\n')
    assert ask("verify", storage, "--mend")["mended"] == 1
    assert (registry / PRIVATE_TREE / path).read_bytes() == sound
    assert not (registry / path).exists()  # where everybody could read it


def test_garbage_among_private_blobs_goes_and_nothing_else(registry: Path) -> None:
    private = registry / PRIVATE_TREE
    stray = private / "blobs" / "sha256" / "ab" / f"ab{0:062d}"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"left")
    shared = parse_digest(Registry(str(registry)).line("words", "1.0").release)
    (private / blob_path(shared)).parent.mkdir(parents=True, exist_ok=True)
    os.link(registry / blob_path(shared), private / blob_path(shared))
    age = datetime.timedelta(days=7)
    before = {*private.glob("blobs/*/*/*")}
    done = remove_unnamed(FolderPlace(registry), older_than=age, now=LATER, progress=Progress())
    assert (done.files, done.freed) == (1, 4)
    assert before - {*private.glob("blobs/*/*/*")} == {stray}


def test_whoever_reads_what_is_served_finds_no_private_tree(registry: Path) -> None:
    assert private_address(open_alone(str(registry), Settings())) == str(registry / PRIVATE_TREE)
    assert private_address(open_alone(str(registry / PRIVATE_TREE), Settings())) is None
    with serve(registry) as server:
        assert private_address(open_alone(server.url, Settings())) is None
