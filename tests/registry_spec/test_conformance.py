"""The conformance suite: it passes on all places of a registry, and finds what is wrong."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.records import IndexLine
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.index import format_index
from modpkg.registry.reader import Registry
from registry_spec import HERE
from registry_spec.__main__ import main
from registry_spec.conformance import ConformanceReport, conform
from registry_spec.publishers import PlacePublisher
from registry_spec.rules import Rules
from registry_spec.samples import Sample, Samples
from registry_spec.writing_rules import write_rules
from tests.hub_server import TOKEN, hub_server
from tests.modules import publish_versions
from tests.registry.places import shared
from tests.registry.places.nginx import Nginx
from tests.registry.places.postgresql import PostgreSQL
from tests.registry.places.servers import SeaweedFS
from tests.registry.places.shared import SharedServers
from tests.registry.servers import Handler, serve
from tests.server.process import server_process

BUCKET = "conformance"


class Conforming(NamedTuple):
    """A folder that the suite has written to, and what it found."""

    folder: Path
    report: ConformanceReport


@pytest.fixture(scope="module")
def servers() -> Iterator[SharedServers]:
    with shared.servers() as servers:
        yield servers


@pytest.fixture(scope="module")
def conforming(tmp_path_factory: pytest.TempPathFactory) -> Conforming:
    folder = tmp_path_factory.mktemp("places") / "folder"
    return Conforming(folder, conform(str(folder)))


def broken(report: ConformanceReport) -> list[str]:
    return [tried.text() for tried in report.rules if tried.outcome == "broken"]


def same_as(conforming: Conforming, report: ConformanceReport) -> bool:
    """Return whether the assembly was locked and composed as it was from the folder."""
    assert broken(report) == []
    wanted = (conforming.report.lock, conforming.report.composed)
    return (report.lock, report.composed) == wanted and None not in wanted


def test_a_folder(conforming: Conforming) -> None:
    assert same_as(conforming, conforming.report)
    again = conform(str(conforming.folder), read_only=True)
    assert same_as(conforming, again)
    assert len(again.rules) < len(conforming.report.rules)


def test_nginx_over_a_folder(conforming: Conforming, servers: SharedServers) -> None:
    report = conform(servers.of(Nginx).site(conforming.folder))
    assert same_as(conforming, report)
    over_http = [tried for tried in report.rules if tried.section.endswith("#over-http")]
    assert {t.outcome for t in over_http if "only the files" not in t.rule} == {"holds"}


def test_a_bucket(
    conforming: Conforming, servers: SharedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers.of(SeaweedFS)
    for variable, value in server.environment.items():
        monkeypatch.setenv(variable, value)
    assert same_as(conforming, conform(f"{server.url}/{BUCKET}"))


def test_a_repository_of_a_hub(conforming: Conforming, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_server() as state:
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        state.repository("team/models")
        assert same_as(conforming, conform("hf://team/models"))


def test_a_server_with_sqlite_and_a_folder(conforming: Conforming, tmp_path: Path) -> None:
    with server_process(str(tmp_path / "registry"), tmp_path) as server:
        assert same_as(conforming, conform(server.url, token=server.token()))


def test_a_server_with_postgresql_and_s3(
    conforming: Conforming,
    servers: SharedServers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = servers.of(SeaweedFS)
    for variable, value in store.environment.items():
        monkeypatch.setenv(variable, value)
    database = servers.of(PostgreSQL).new_database()
    with server_process(f"{store.url}/served", tmp_path, database=database) as server:
        assert same_as(conforming, conform(server.url, token=server.token()))


def test_a_registry_of_others_is_only_read(tmp_path: Path) -> None:
    publish_versions(tmp_path / "models", "m", ["1.0"])
    place = FolderPlace(tmp_path / "models")
    report = conform(str(tmp_path / "models"))
    assert Registry(place.url).names() == ["m"]
    assert (broken(report), report.lock) == ([], None)


def test_the_command(conforming: Conforming) -> None:
    run = functools.partial(CliRunner().invoke, main)
    done = run(["conformance", str(conforming.folder), "--read-only"])
    assert done.exit_code == 0, done.output
    assert f"composed  {conforming.report.composed}" in done.output
    done = run(["conformance", str(conforming.folder), "--read-only", "--json"])
    assert json.loads(done.output)["lock"] == conforming.report.lock
    assert run(["conformance", str(conforming.folder / "blobs"), "--read-only"]).exit_code == 1


def test_each_rule_names_a_section_that_there_is(conforming: Conforming) -> None:
    for tried in conforming.report.rules:
        page, _, anchor = tried.section.partition("#")
        titles = re.findall(r"^#+ (.*)", (HERE / page).read_text(), re.MULTILINE)
        anchors = [re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles]
        assert not anchor or anchor in anchors, tried


# What is wrong is found ----------------------------------------------------------------------


def everything_is_found(handler: Handler, number: int) -> bool:
    if handler.file() is None:
        handler.answer(200, b"<html>Welcome</html>")
        return True
    return False


def wrong_parts(handler: Handler, number: int) -> bool:
    if "Range" in handler.headers:
        data = handler.file() or b""
        handler.answer(206, data[:3], Content_Range=f"bytes 0-2/{len(data)}")
        return True
    return False


def always_unchanged(handler: Handler, number: int) -> bool:
    if "If-None-Match" in handler.headers:
        handler.answer(304, ETag='"1"')
        return True
    return False


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        (everything_is_found, "a file that is missing is answered with 404"),
        (wrong_parts, "Range is answered with 206"),
        (always_unchanged, "If-None-Match is answered with 304"),
    ],
)
def test_servers_that_do_not_conform(
    fault: Callable[[Handler, int], bool], rule: str, conforming: Conforming
) -> None:
    name = next(iter(Registry(str(conforming.folder)).names() or ()))
    with serve(conforming.folder) as server:
        server.fault, server.etag = fault, True
        report = conform(server.url, [name])
    assert any(rule in text for text in broken(report)), report.summary()


class _Overwriting(PlacePublisher):
    """Replaces what is published."""

    def publish(self, sample: Sample) -> IndexLine:
        path = Path(self._address, "index", f"{sample.line.name}.jsonl")
        lines = Registry(self._address).index(sample.line.name) if path.exists() else []
        path.write_bytes(format_index([old for old in lines if old.version != sample.line.version]))
        return super().publish(sample)


class _IndexFirst(PlacePublisher):
    """Writes the index before the blobs, and is killed between."""

    def interrupted(self, sample: Sample, step: int) -> bool:
        self.publish(sample)
        path = blob_path(parse_digest(sample.line.release))
        Path(self._address, path).unlink()
        return False


class _Forgetful(PlacePublisher):
    """Takes part of what was there for gone when several publish."""

    def publish(self, sample: Sample) -> IndexLine:
        path = Path(self._address, "index", f"{sample.line.name}.jsonl")
        line = super().publish(sample)
        path.write_bytes(format_index([line]))
        return line


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (_Overwriting, "a version is never another release (M307)"),
        (_IndexFirst, "a publisher that is killed leaves nothing that is named"),
        (_Forgetful, "of many releases at once none is lost, and none is seen half"),
    ],
)
def test_writers_that_do_not_conform(kind: type[PlacePublisher], rule: str, tmp_path: Path) -> None:
    address, rules = str(tmp_path / "registry"), Rules()
    FolderPlace(tmp_path / "registry").prepare("wrong")
    write_rules(rules, address, kind(address), Samples(tmp_path / "samples"))
    assert rule in [tried.rule for tried in rules.tried if tried.outcome == "broken"]
