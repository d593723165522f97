"""Rules for everybody who lets a registry be written to: publishing, yanking, being killed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from modpkg.core.digests import parse_digest
from modpkg.core.errors import NotFound, PublishError
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of
from registry_spec.publishers import Publisher
from registry_spec.reading_rules import read_whole
from registry_spec.rules import RuleBroken, Rules, require
from registry_spec.samples import Sample, Samples

_AT_ONCE = 8
_MOST_STEPS = 30


def write_rules(rules: Rules, address: str, publisher: Publisher, samples: Samples) -> None:
    """Try the rules of a registry that is written to, in modules of the suite's own."""
    tried = _WritingRules(address, publisher, samples)
    writing = "registry.md#writing"
    with rules.rule(writing, "what is published is there, whole"):
        tried.published()
    with rules.rule(writing, "publishing the same release again changes nothing"):
        tried.again()
    with rules.rule(writing, "a version is never another release (M307)"):
        tried.other_bytes()
    with rules.rule(writing, "a release may refer to the packs of an earlier one"):
        tried.shared_packs()
    with rules.rule(writing, "of several releases of one version at once, one is published"):
        tried.one_version()
    with rules.rule(writing, "of many releases at once none is lost, and none is seen half"):
        tried.many_at_once()
    with rules.rule(writing, "a publisher that is killed leaves nothing that is named"):
        tried.killed()
    with rules.rule("registry.md#modulesjsonl", "it has what was published"):
        tried.listed()
    with rules.rule("registry.md#yanking", "a yank and its end change one line alone"):
        tried.yanked()


class _WritingRules:
    def __init__(self, address: str, publisher: Publisher, samples: Samples) -> None:
        self._address = address
        self._publisher = publisher
        self._samples = samples
        self._name = samples.new_name()
        self._first = samples.text(self._name, "1.0")
        self._newest: dict[str, str] = {}

    def _publish(self, sample: Sample) -> IndexLine:
        line = self._publisher.publish(sample)
        self._newest[line.name] = line.version
        return line

    def _reader(self) -> Registry:
        """Return the registry as it is now."""
        return Registry(self._address)

    def _lines(self, name: str) -> list[IndexLine]:
        """Return the lines of a module, of which each release has to be there whole."""
        registry = self._reader()
        try:
            lines = registry.index(name)
        except NotFound:
            return []
        for line in lines:
            for digest, what in blobs_of(registry.record(line)):
                read_whole(registry, digest, f"{what} {line.version}")
        return lines

    def _releases(self, name: str) -> dict[str, str]:
        return {line.version: line.release for line in self._lines(name)}

    def published(self) -> None:
        sample = self._first
        require(self._releases(self._name) == {}, f"there is a module {self._name} already")
        line = self._publish(sample)
        require(line.release == sample.line.release, "it is another release than was built")
        require(self._lines(self._name) == [line], "the index has another line than was answered")
        require(bool(line.published), "its line has no time of publication")
        record = read_whole(self._reader(), parse_digest(line.release), "the release record")
        require(len(record) <= line.size, "its line has a size that is too small")

    def again(self) -> None:
        before = self._index(self._name)
        line = self._publish(self._first)
        require(self._index(self._name) == before, "the index file is another")
        require(self._lines(self._name) == [line], "another line was answered")

    def other_bytes(self) -> None:
        before = self._index(self._name)
        for version in ("1.0", "1.0.0"):
            self._refused(self._samples.text(self._name, version, "other bytes"))
        require(self._index(self._name) == before, "the index file is another")

    def _refused(self, sample: Sample) -> None:
        try:
            self._publisher.publish(sample)
        except PublishError as error:
            require(error.code == "M307", f"it is refused with {error.code}")
        else:
            raise RuleBroken(f"{sample.line.version} was published with other bytes")

    def _index(self, name: str) -> bytes:
        return self._reader().source.read(f"index/{name}.jsonl")

    def shared_packs(self) -> None:
        name = self._samples.new_name()
        first = self._samples.base(name, "1.0", 1.0)
        second = self._samples.base(name, "2.0", 2.0)
        shared = set(first.record.packs) & set(second.record.packs)
        require(bool(shared), "the two releases share no pack")
        lines = [self._publish(sample) for sample in (first, second)]
        require(self._lines(name) == lines, "the index has other lines than were answered")

    def one_version(self) -> None:
        name = self._samples.new_name()
        samples = [self._samples.text(name, "1.0", f"by {number}") for number in range(4)]

        def attempt(sample: Sample) -> str:
            try:
                return self._publish(sample).release
            except PublishError as error:
                return error.code

        with ThreadPoolExecutor(len(samples)) as pool:
            results = list(pool.map(attempt, samples))
        published = [result for result in results if result.startswith("sha256:")]
        require(len(published) == 1, f"the publishers were answered {results}")
        others = set(results) - set(published)
        require(others == {"M307"}, f"the others were answered {sorted(others)}")
        require(self._releases(name) == {"1.0": published[0]}, "the index has another release")

    def many_at_once(self) -> None:
        names = [self._samples.new_name() for _ in range(3)]
        samples = [
            self._samples.text(name, f"{version}.0") for version in range(1, 5) for name in names
        ]
        over = threading.Event()
        with ThreadPoolExecutor(_AT_ONCE + 1) as pool:
            reading = pool.submit(self._read_until, over, names)
            try:
                list(pool.map(self._publish, samples))
            finally:
                over.set()
            reading.result()
        for name in names:
            wanted = {s.line.version: s.line.release for s in samples if s.line.name == name}
            found = self._releases(name)
            require(found == wanted, f"{name} has {sorted(found)} in place of {sorted(wanted)}")
            self._newest[name] = "4.0"

    def _read_until(self, over: threading.Event, names: Iterable[str]) -> None:
        """Read all releases again and again: each is whole, and none disappears."""
        seen: dict[str, dict[str, str]] = {}
        for name in itertools.cycle(names):
            found = self._releases(name)
            lost = seen.get(name, {}).items() - found.items()
            require(not lost, f"{name} had {sorted(lost)}, and no longer does")
            seen[name] = found
            if over.wait(0.01):
                return

    def killed(self) -> None:
        """Kill publishers at each step; others publish the same module between them."""
        name = self._samples.new_name()
        seen: dict[str, str] = {}
        left: list[Sample] = []
        for step in range(_MOST_STEPS):
            sample = self._samples.text(name, f"{step + 1}.0")
            done = self._publisher.interrupted(sample, step)
            found = self._releases(name)
            version = {sample.line.version: sample.line.release}
            require(found in (seen, seen | version), f"{name} has {sorted(found)}")
            require(not done or found != seen, f"{sorted(version)} was published, and is not there")
            seen = found
            left.append(sample)
            if done:
                break
        else:
            raise RuleBroken("a publisher is never done")
        for sample in left:
            self._publish(sample)
            seen |= {sample.line.version: sample.line.release}
        require(self._releases(name) == seen, "what was published after that is not there")

    def listed(self) -> None:
        modules = self._reader().modules()
        require(modules is not None, "there is none")
        for name, version in self._newest.items():
            line = (modules or {}).get(name)
            require(line is not None, f"it lacks {name}")
            require(line is None or line.version == version, f"it has another version of {name}")

    def yanked(self) -> None:
        name = self._samples.new_name()
        for version in ("1.0", "2.0"):
            self._publish(self._samples.text(name, version))
        before = self._lines(name)
        for reason in ("wrong weights", None):
            self._publisher.yank(name, "1.0", reason)
            found = self._lines(name)
            require(found[0].yanked == reason, f"{name} 1.0 is yanked {found[0].yanked!r}")
            require(found[1:] == before[1:], "another line changed")
        require(found == before, "the line is not what it was before the yank")
