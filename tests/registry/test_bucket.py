"""Publishing to an object store: what travels, who wins, and what is said when it fails."""

from __future__ import annotations

import datetime
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from modpkg.core import bounds
from modpkg.core.candidates import ThreadEntry
from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.manifest.config import Settings
from modpkg.manifest.read import read_manifest
from modpkg.registry import bucket_place
from modpkg.registry.bucket_place import BucketPlace, ChangedMeanwhile
from modpkg.registry.candidate_writer import CandidateWriter
from modpkg.registry.candidates import read_thread
from modpkg.registry.copying import copy_releases
from modpkg.registry.damage import Verification, healthy, mend
from modpkg.registry.known import known_tensors
from modpkg.registry.object_source import ObjectSource
from modpkg.registry.opening import open_place
from modpkg.registry.place import Place, registry_at
from modpkg.registry.reader import Registry
from modpkg.registry.relatives import Relatives
from modpkg.registry.unnamed import remove_unnamed
from modpkg.registry.upkeep import all_names, open_alone
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import build
from registry_spec.check import check
from tests import forkserver
from tests.changing import Numbers, a_little, numbers, write
from tests.modules import publish_versions, write_module
from tests.raising import raises
from tests.registry.proxy import Fault, FaultyProxy, Passed
from tests.registry.s3 import running_s3, use_s3


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with running_s3() as url:
        yield url


@pytest.fixture
def s3(moto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultyProxy]:
    """The server behind something that can fail, with credentials and a new bucket."""
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    with FaultyProxy(moto) as proxy:
        use_s3(monkeypatch, proxy.url)
        proxy.request("PUT", "/bucket")
        yield proxy
        proxy.fault = lambda request: Fault()
        proxy.request("POST", "/moto-api/reset")


def place(path: str = "team/models") -> Place:
    return open_place(f"s3://bucket/{path}")


def built(folder: Path, at: Place) -> tuple[Registry, IndexLine]:
    """Build a module for a place."""
    manifest = read_manifest(folder / "modpkg.toml")
    module = manifest.module
    assert module is not None
    known = known_tensors(at, Relatives(module.name, module.version))
    line = build(manifest, module, folder / "dist", known=known).line
    return Registry(str(folder / "dist")), line


def publish(folder: Path, at: Place | None = None) -> IndexLine:
    at = at or place()
    return RegistryWriter(at, "models").publish(*built(folder, at))


def publish_weights(root: Path, tensors: Numbers, version: str = "1.0") -> IndexLine:
    return publish(write(root / version, tensors, version=version))


def test_a_bucket_is_a_registry_as_a_folder_is(s3: FaultyProxy, tmp_path: Path) -> None:
    tensors = numbers("a", "b", "c", "d")
    first = publish_weights(tmp_path, tensors)
    sent = s3.sent()
    assert publish_weights(tmp_path, tensors) == first
    assert s3.sent() - sent < 2000  # records of conditions
    second = publish_weights(tmp_path, a_little(tensors, "b"), "1.1")
    reader = Registry("s3://bucket/team/models")
    assert reader.name == "models"
    assert reader.names() == ["m"]
    assert reader.index("m") == [first, second]
    record = reader.record(second)
    assert record.tensors["a"].pack == reader.record(first).tensors["a"].pack
    assert record.tensors["b"].encoding is not None
    modules = reader.modules()
    assert modules is not None
    assert modules["m"].version == "1.1"
    for pack, size in record.packs.items():
        assert len(b"".join(reader.stream(parse_digest(pack), "it"))) == size


def test_a_yank_and_its_end(s3: FaultyProxy, tmp_path: Path) -> None:
    publish(write_module(tmp_path / "m", "m"))
    writer = RegistryWriter(place())
    writer.yank("m", "1.0", "wrong")
    assert registry_at(place()).line("m", "1.0").yanked == "wrong"
    writer.yank("m", "1.0", None)
    assert registry_at(place()).line("m", "1.0").yanked is None
    with raises("M312"):
        writer.yank("m", "2.0", "")


def test_candidates_lie_in_a_bucket_too(s3: FaultyProxy, tmp_path: Path) -> None:
    publish_weights(tmp_path, numbers("a", "b"))
    at = place()
    build, line = built(write(tmp_path / "1.1", numbers("a", "c"), version="1.1"), at)
    writer = CandidateWriter(at)
    one = writer.submit(build, line, by="ada", message="c in place of b")
    assert writer.submit(build, line, by="ada", message="again").number == one.number == 1
    entry = ThreadEntry(kind="comment", by="bob", at="2026-11-28T00:00:00Z", text="Why?")
    for _ in range(2):
        writer.say("m", 1, entry)
    assert read_thread(registry_at(at), "m", 1) == [entry, entry]
    assert [line.version for line in registry_at(at).index("m")] == ["1.0"]
    CandidateWriter(place()).accept("m", 1, by="eve")
    assert registry_at(at).line("m", "1.1").release == one.line.release
    with raises("M468", match="accepted by eve"):
        writer.reject("m", 1, by="eve", reason="")


def test_who_loses_a_race_has_sent_what_he_sent_before(s3: FaultyProxy, tmp_path: Path) -> None:
    def told(version: str) -> dict[str, bytes]:
        return {"README.md": version.encode() * 1000}

    place().prepare()
    folders = [write_module(tmp_path / v, "m", v, files=told(v)) for v in ("1.0", "2.0", "2.0")]
    alone = publish(folders[0], place("alone")).size
    (source, line), faster = built(folders[0], place()), [folders[1]]

    def race(passed: Passed) -> Fault:
        if faster and passed.method == "PUT" and passed.path.endswith("index/m.jsonl"):
            publish(faster.pop())
        return Fault()

    s3.fault = race
    assert RegistryWriter(place()).publish(source, line).size == alone > 3000
    lines = registry_at(place()).index("m")
    assert [each.size == alone for each in lines] == [True, True]


def test_who_loses_a_race_against_himself_restores_nothing(s3: FaultyProxy, tmp_path: Path) -> None:
    folder = write_module(tmp_path / "m", "m", files={"README.md": b"one"})
    source, line = built(folder, place())
    writer, faster = RegistryWriter(place(), "models"), [1]

    def race(passed: Passed) -> Fault:
        if faster and passed.method == "PUT" and passed.path.endswith("index/m.jsonl"):
            faster.pop()
            RegistryWriter(place()).publish(source, line)
        return Fault()

    s3.fault = race
    writer.publish(source, line)
    assert (faster, writer.restored) == ([], 0)


def test_another_release_of_a_version_is_refused(s3: FaultyProxy, tmp_path: Path) -> None:
    folder = write_module(tmp_path / "m", "m", files={"README.md": b"one"})
    publish(folder)
    (folder / "README.md").write_bytes(b"two")
    with raises("M307"):
        publish(folder)


def test_large_blobs_are_sent_in_parts(
    s3: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_place, "PART", 6 << 20)
    folder = write(tmp_path / "m", numbers("a", count=7 << 20))
    told: list[int] = []
    at = place()
    source, line = built(folder, at)
    RegistryWriter(at).publish(source, line, progress=told.append)
    record = source.record(line)
    (pack,) = record.packs
    parts = [passed for passed in s3.seen if "partNumber" in passed.path]
    assert [len(passed.body) for passed in parts].count(6 << 20) == 2
    assert at.size(blob_path(parse_digest(pack))) == record.packs[pack]
    assert sum(told) > record.packs[pack]


@pytest.mark.parametrize("count", [4000, 7 << 20])
def test_bytes_that_changed_are_never_seen(
    s3: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(bucket_place, "PART", 6 << 20)
    folder = write(tmp_path / "m", numbers("a", count=count))
    at = place()
    source, line = built(folder, at)
    (pack,) = source.record(line).packs
    path = folder / "dist" / blob_path(parse_digest(pack))

    def spoil(passed: object) -> Fault:
        path.chmod(0o644)
        with path.open("r+b") as file:  # after it was verified
            file.seek(-1, os.SEEK_END)
            file.write(b"!")
        return Fault()

    s3.fault = lambda passed: spoil(passed) if passed.method == "HEAD" else Fault()
    with raises("M305"):
        RegistryWriter(at).publish(source, line)
    assert at.size(blob_path(parse_digest(pack))) is None
    assert registry_at(at).index("m") == []


def test_each_request_may_fail_twice(s3: FaultyProxy, tmp_path: Path) -> None:
    kinds = [Fault(drop=True), Fault(lose=True), Fault(done_then=500), Fault(status=503)]
    failed: Counter[tuple[str, str, bytes]] = Counter()

    def twice(passed: Passed) -> Fault:
        key = passed.method, passed.path, passed.body
        if "X-Amz-Signature" in passed.path or failed[key] == 2:
            return Fault()
        failed[key] += 1
        return kinds[(passed.number + failed.total()) % 4]

    publish(write_module(tmp_path / "m", "m", files={"README.md": b"one"}))
    s3.fault = twice
    line = publish(write_module(tmp_path / "m2", "m", "2.0", files={"README.md": b"two"}))
    s3.fault = lambda passed: Fault()
    assert failed.total() > 16
    reader = registry_at(place())
    assert [each.version for each in reader.index("m")] == ["1.0", "2.0"]
    assert reader.record(line).files
    modules = reader.modules()
    assert modules is not None
    assert modules["m"].version == "2.0"


def test_who_is_asked_to_wait_for_long_is_told(s3: FaultyProxy, tmp_path: Path) -> None:
    s3.fault = lambda passed: Fault(status=503, headers={"Retry-After": "1000"})
    with raises("M302", match="wants to be left alone for 1000 s"):
        place().prepare()
    assert len(s3.seen) < 5


def test_who_is_asked_to_wait_waits(s3: FaultyProxy, tmp_path: Path) -> None:
    """The store is busy until it has said for how long, which obstore does not pass on."""
    limited = Fault(status=429, headers={"Retry-After": "2"})
    came: list[float] = []
    said: list[Passed] = []

    def fault(passed: Passed) -> Fault:
        if passed.path.endswith(".jsonl"):
            came.append(s3.times[passed.number])
            return Fault() if said else limited
        if not came or said or "X-Amz-Signature" not in passed.path:
            return Fault()
        said.append(passed)
        return limited

    s3.fault = fault
    publish(write_module(tmp_path / "m", "m"))
    assert came[1] - came[0] >= 2


def refused(code: str, message: str, status: int = 403, more: str = "") -> Fault:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return Fault(status=status, headers={"Content-Type": "application/xml"}, body=body.encode())


SKEWED = (
    "<RequestTime>20260101T000000Z</RequestTime><ServerTime>2026-01-01T01:00:00Z</ServerTime>"
    "<MaxAllowedSkewMilliseconds>900000</MaxAllowedSkewMilliseconds>"
)


REGION = {"x-amz-bucket-region": "eu-west-1"}
REFUSALS = [
    (refused("AccessDenied", "no"), "these credentials may not write there"),
    (refused("ExpiredToken", "old", 400), "the credentials have expired; log in again"),
    (refused("InvalidAccessKeyId", "?"), "the credentials that were found are not valid there"),
    (refused("SignatureDoesNotMatch", "?"), "not valid there; set others"),
    (
        refused("RequestTimeTooSkewed", "late", 403, SKEWED),
        "the clock of this machine is off by 60 minutes; set it",
    ),
    (
        refused("AuthorizationHeaderMalformed", "x", 400, "<Region>eu-west-1</Region>"),
        "in the region eu-west-1; set AWS_REGION to eu-west-1",
    ),
    (refused("PermanentRedirect", "x", 301), "in another region"),
    (replace(refused("", "", 301), headers=REGION), "in the region eu-west-1"),
    (refused("NoSuchBucket", "x", 404), "there is no bucket 'bucket'; create it"),
    (refused("QuotaExceeded", "x", 403), "the bucket is full"),
]


def test_each_refusal_is_one_sentence(s3: FaultyProxy, tmp_path: Path) -> None:
    publish(write_module(tmp_path / "m", "m"))
    source, line = built(write_module(tmp_path / "m2", "m", "2.0"), place())
    for fault, sentence in REFUSALS:
        s3.fault = partial(failing, fault, lambda passed: passed.method in ("PUT", "POST", "HEAD"))
        with raises("M846", match=sentence):
            RegistryWriter(place()).publish(source, line)
        s3.fault = partial(failing, fault, lambda passed: "jsonl" in passed.path)
        if fault.status != 404:
            with raises("M314" if b"AccessDenied" in fault.body else "M849"):
                registry_at(place()).index("m")


def failing(fault: Fault, where: Callable[[Passed], bool], passed: Passed) -> Fault:
    return fault if where(passed) else Fault()


def test_a_bucket_that_is_not_there(s3: FaultyProxy, tmp_path: Path) -> None:
    with raises("M846", match="there is no bucket 'other'; create it, or correct the address\\.$"):
        publish(write_module(tmp_path / "m", "m"), open_place("s3://other"))


INDEX = ("PUT", "/m.jsonl")


def test_what_was_sent_already_is_told_only_if_it_was(s3: FaultyProxy, tmp_path: Path) -> None:
    source, line = built(write_module(tmp_path / "m", "m"), place())
    place().prepare()
    refusal = REFUSALS[0][0]
    s3.fault = lambda passed: refusal if (passed.method, passed.path[-8:]) == INDEX else Fault()
    for sentence in ("may not write there .*What was sent already is kept", r"others \(AWS_…\)\.$"):
        with raises("M846", match=sentence):
            RegistryWriter(place()).publish(source, line)


def test_a_store_that_ignores_conditions_is_refused(s3: FaultyProxy, tmp_path: Path) -> None:
    def unconditional(passed: Any) -> Fault:
        for header in ("if-match", "if-none-match"):
            passed.headers.pop(header, None)
        return Fault()

    s3.fault = unconditional
    with raises("M848", match="ignores If-None-Match and If-Match"):
        publish(write_module(tmp_path / "m", "m"))


def test_a_proxy_that_cannot_be_reached(
    s3: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_module(tmp_path / "m", "m")
    publish(folder)
    at = place()
    source, line = built(folder, at)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with raises("M302", match="the proxy 127.0.0.1:9, which HTTP_PROXY names, cannot be reached"):
        RegistryWriter(place()).publish(source, line)


def test_a_store_is_not_asked_in_clear(
    s3: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither through a proxy, nor elsewhere; the error names what would have been asked."""
    for name in ("NO_PROXY", "no_proxy", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://ann:pw@127.0.0.1:9")
    sentence = "through the proxy 127.0.0.1:9 that HTTP_PROXY names; add 127.0.0.1 to NO_PROXY"
    with raises("M849", match=sentence):
        registry_at(place()).index("m")
    with raises("M849", match=sentence):
        publish(write_module(tmp_path / "m", "m"))
    monkeypatch.delenv("HTTP_PROXY")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.example:9000")
    with raises(
        "M849", match="store.example:9000 would be asked in clear; use https or .*AWS_ALLOW"
    ):
        registry_at(place()).index("m")


def test_a_bucket_is_looked_after_as_a_folder_is(
    s3: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, now = tmp_path / "source", datetime.datetime.now(datetime.timezone.utc)
    publish_versions(source, "lib", ["1.0", "2.0"])
    origin = open_alone(str(source), Settings())
    lines = {"lib": origin.index("lib")}
    for new in (2, 0):
        writer = RegistryWriter(place(), origin.name)
        assert copy_releases(origin, writer, lines, Progress()).releases == new
    bucket = open_alone(place().source.url, Settings())
    assert Verification(bucket, Progress()).run(all_names(bucket)).damaged == []
    path = blob_path(parse_digest(lines["lib"][0].release))
    for data in (None, b"damaged"):
        place().remove(path)
        if data is not None:
            s3.request("PUT", f"/bucket/team/models/{path}", data)
        fresh = open_alone(place().source.url, Settings())
        (damage,) = Verification(fresh, Progress()).run(["lib"]).damaged
        assert damage.releases == ["lib 1.0"]
        mend(place(), damage, *healthy(damage, [origin]))
    s3.request("PUT", f"/bucket/team/models/blobs/sha256/ab/{'ab' * 32}", b"left")
    later, week = now + datetime.timedelta(days=8), datetime.timedelta(days=7)
    with raises("M873", match="0 minutes ago"):
        remove_unnamed(place(), older_than=week, now=now, progress=Progress())
    dry = remove_unnamed(place(), older_than=week, now=now, progress=Progress(), dry_run=True)
    assert (dry.files, dry.left) == (0, 3)  # which is reported at any time
    freed = remove_unnamed(place(), older_than=week, now=later, progress=Progress())
    assert (freed.files, freed.freed, freed.left) == (1, 4, 2)
    fresh = open_alone(place().source.url, Settings())
    assert Verification(fresh, Progress()).run(["lib"]).damaged == []


def test_eight_publishers_that_are_killed_lose_nothing(
    moto: str, s3: FaultyProxy, tmp_path: Path
) -> None:
    """Each is killed at another of its requests, before or after the store has done it."""
    releases = [(f"m{n}", "1.0") for n in range(3)] + [("one", f"{v}.0") for v in range(5)]
    place().prepare()
    with ExitStack() as stack:
        workers = []
        for number, (name, version) in enumerate(releases):
            folder = write_module(tmp_path / f"{name}-{version}", name, version)
            (folder / "a.md").write_text(str(number))
            built(folder, place())
            proxy = stack.enter_context(FaultyProxy(moto))
            command = [forkserver.python(), "-m", "tests.registry.publisher"]
            start = partial(
                subprocess.Popen,
                [*command, "s3://bucket/team/models", str(folder / "dist")],
                env={**os.environ, "AWS_ENDPOINT_URL": proxy.url},
                stdout=subprocess.PIPE,
                text=True,
            )
            workers.append(Worker(start, 7 + number, number % 2 == 0))
            proxy.fault = workers[-1].fault
        for worker in workers:
            worker.begin()
        for worker in workers:
            worker.process.communicate(timeout=300)
        assert all(worker.killed for worker in workers)
        with ThreadPoolExecutor(8) as pool:
            again = [
                pool.submit(publish_tree, tmp_path / f"{name}-{version}" / "dist")
                for name, version in releases
            ]
            assert [done.result().version for done in again] == [each[1] for each in releases]
    report = check("s3://bucket/team/models")
    assert (report.problems, report.modules, report.releases) == ([], 4, 8)
    modules = registry_at(place()).modules()
    assert modules is not None
    assert {name: line.version for name, line in modules.items()} == {
        "m0": "1.0",
        "m1": "1.0",
        "m2": "1.0",
        "one": "4.0",
    }


def publish_tree(tree: Path) -> IndexLine:
    """Publish what was built."""
    source = Registry(str(tree))
    (name,) = source.names() or ()
    return RegistryWriter(place()).publish(source, *source.index(name))


class Worker:
    """A publisher that is killed at one of its requests, and then begins again."""

    def __init__(
        self, start: Callable[[], subprocess.Popen[str]], at: int, when_done: bool
    ) -> None:
        self._start, self._at, self._when_done = start, at, when_done
        self.killed = False

    def begin(self) -> None:
        self.process = self._start()

    def fault(self, passed: Passed) -> Fault:
        if self.killed or passed.number != self._at:
            return Fault()
        self.killed = True
        self.process.kill()
        return Fault() if self._when_done else Fault(drop=True)


def test_who_is_second_each_time_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "CHANGE_ATTEMPTS", 2)
    monkeypatch.setattr(BucketPlace, "_check_conditions", lambda place: None)
    tries = []

    def edit(change: object) -> None:
        tries.append(change)
        raise ChangedMeanwhile

    with raises("M847"):
        BucketPlace(ObjectSource("s3://models")).change(edit)
    assert len(tries) == 2
