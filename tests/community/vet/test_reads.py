"""One vet reads each index file and each release record once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modpkg.community.evaluate.test_runner import TestRunner
from modpkg.community.vet.vet import compared_release, find_candidate, vet
from modpkg.core.progress import Progress
from modpkg.core.records import ReleaseRecord
from modpkg.environment.workspace import RegistryOptions, Workspace
from modpkg.registry import reader
from modpkg.store.store import Store
from tests.community.tiny import publish_encoder_and_head, write_encoder
from tests.registry.servers import serve
from tests.tiny import publish

pytestmark = pytest.mark.usefixtures("forked_python")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count index files and release records, by name, as they are parsed."""
    counts: Counter[str] = Counter()

    def counting(name: str, label: Callable[..., str | None]) -> None:
        original = getattr(reader, name)

        def counted(*arguments: Any) -> Any:
            if text := label(*arguments):
                counts[text] += 1
            return original(*arguments)

        monkeypatch.setattr(reader, name, counted)

    counting("parse_index", lambda data, name, source, *rest: f"{source} index of {name}")
    counting("decode_record", lambda data, kind, what: what if kind is ReleaseRecord else None)
    return counts


def run_vet(home: Path, candidate: str, registry: str) -> str:
    workspace = Workspace(options=RegistryOptions(registry), store=Store(home / "store"))
    with (
        TestRunner(workspace.store, Progress()) as runner,
        find_candidate(workspace, candidate) as (own, release),
    ):
        return vet(own, runner, release, compared_release(own, release, None)).verdict


def test_a_vet_of_a_project_reads_each_index_and_record_once(
    home: Path, tmp_path: Path, reads: Counter[str]
) -> None:
    registry = home / "registry"
    publish_encoder_and_head(registry, tmp_path / "projects")
    publish(write_encoder(tmp_path / "same", "1.1"), registry)
    candidate = write_encoder(tmp_path / "candidate", "1.2")
    reads.clear()
    assert run_vet(home, str(candidate), str(registry)) == "accept"
    assert len(reads) == 6, "encoder and mood, and the build; the records of three releases"
    assert set(reads.values()) == {1}


def test_a_vet_over_http_fetches_each_file_once(
    home: Path, tmp_path: Path, reads: Counter[str]
) -> None:
    registry = home / "registry"
    publish_encoder_and_head(registry, tmp_path / "projects")
    publish(write_encoder(tmp_path / "same", "1.1"), registry)
    reads.clear()
    with serve(registry) as server:
        assert run_vet(home, "encoder==1.1", server.url) == "accept"
        fetched = Counter(server.paths())
    assert fetched["/index/encoder.jsonl"] == 1
    assert set(fetched.values()) == {1}, fetched
    assert set(reads.values()) == {1}
