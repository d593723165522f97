"""A served registry of small modules, some of them by somebody hostile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from modpkg.core.digests import digest_bytes
from modpkg.core.records import (
    BuiltFrom,
    FileEntry,
    IndexLine,
    Provenance,
    ReleaseRecord,
    TensorEntry,
    canonical_json,
)
from modpkg.core.tree import BlobTree
from modpkg.registry.index import format_index
from modpkg.registry.module_lines import format_module_lines, module_line
from modpkg.registry.reader import Registry
from modpkg.server.app import make_app
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from tests.modules import publish, publish_versions, write_module
from tests.tiny import publish_talker

EVIL = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7777*7777 }}{% raw %}"
    "</svg></style>"
)
"""A text that becomes an element, an attribute or code wherever it is not escaped."""
MORE = """
[[tests]]
name = "keeps names"
cases = "cases.jsonl"
metric = "exact_match"
at_least = 0.5
"""
PACK = "sha256:" + "1" * 64


def add_release(registry: Path, record: ReleaseRecord, *, yanked: str | None = None) -> IndexLine:
    """Add a release as somebody does who writes the files by himself."""
    release = BlobTree(registry).add(canonical_json(record))
    line = IndexLine(
        name=record.name,
        version=record.version,
        kind=record.kind,
        requires=record.requires,
        extras=record.extras,
        expects=record.expects,
        release=release,
        published="2026-01-01T00:00:00Z",
        yanked=yanked,
    )
    path = registry / "index" / f"{record.name}.jsonl"
    before = path.read_bytes() if path.exists() else b""
    path.write_bytes(before + format_index([line]))
    modules = Registry(str(registry)).modules() or {}
    modules[line.name] = module_line(line, lambda _: record)
    (registry / "modules.jsonl").write_bytes(format_module_lines(modules))
    return line


def tensor(number: int, name: str = "") -> TensorEntry:
    digest = digest_bytes(f"{name}{number}".encode())
    return TensorEntry("F32", [2, 2], digest, PACK, 16 * number, 16)


def hostile_record(registry: Path) -> ReleaseRecord:
    """Return a record in which each text that may be anything is an attack."""
    readme = f"# {EVIL}\n\n[x](javascript:alert(1)) ![x](https://evil.example/x.png) {EVIL}"
    digest = BlobTree(registry).add(readme.encode())
    tests = [{"name": EVIL, "metric": EVIL, "at_least": EVIL}, EVIL, {"name": 1}]
    return ReleaseRecord(
        name="evil",
        version="1.0",
        kind="model",
        license=EVIL,
        summary=EVIL,
        requires=["talker>=1", "absent"],
        manifest={
            "module": {"name": "evil"},
            "task": {"kind": EVIL},
            "tests": tests,
            "card": {"tags": [EVIL, 1, "\u202egnp"], "languages": EVIL},
            "compose": {
                "base": EVIL,
                "steps": [{"op": EVIL, "modules": [EVIL, 1]}, EVIL, {"op": 1}],
            },
        },
        files={
            "README.md": FileEntry(digest, len(readme)),
            f"{EVIL}.json".replace("/", ""): FileEntry(digest, 1),
        },
        packs={PACK: 1 << 20},
        tensors={f"layers.{n}.{EVIL}": tensor(n) for n in range(3)} | {EVIL: tensor(3)},
        provenance=Provenance(
            built_with=EVIL, built_from=[BuiltFrom("talker", "1.0", PACK, "forked")], breaking=EVIL
        ),
    )


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with models on one another, many versions, a README, and a hostile module."""
    folder = tmp_path_factory.mktemp("pages")
    registry = folder / "registry"
    publish_talker(registry, folder / "projects")
    readme = b"# Words\n\n![loss](loss.png)\n\n    code\n"
    files = {"README.md": readme, "loss.png": b"\x89PNG\r\n\x1a\n", "notes.txt": b"<b>hi</b>"}
    files["cases.jsonl"] = b'{"input": "a", "expected": "a"}\n'
    publish(
        write_module(folder / "words", "words", "1.0", "suite", more=MORE, files=files), registry
    )
    publish_versions(registry, "many", [f"1.{n}" for n in range(110)])
    add_release(registry, hostile_record(registry), yanked=EVIL)
    return registry


@pytest.fixture(scope="module")
def registry(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it, to which the tests of one file may add."""
    return Path(shutil.copytree(published, tmp_path_factory.mktemp("pages") / "registry"))


@pytest.fixture(scope="module")
def site(registry: Path) -> Iterator[Server]:
    """A server on it."""
    made = Server(ServerSettings(storage=str(registry), url="https://models.example"))
    made.prepare()
    yield made
    made.close()


@pytest.fixture(scope="module")
def browser(site: Server) -> Iterator[TestClient[Litestar]]:
    """A client that asks as browsers do."""
    with TestClient(make_app(site)) as made:
        made.headers["Accept"] = "text/html"
        yield made
