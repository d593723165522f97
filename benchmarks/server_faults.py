"""A day of a registry's server in minutes, with server, database and storage killed at random.

usage: python -m benchmarks.server_faults [--hour SECONDS] [--hours N] [--seed N]

Two servers share SeaweedFS as the storage and PostgreSQL as the database. Publishers publish small
releases and try each again until it is acknowledged; some give up, and others yank; groups submit
candidates, approve, accept and reject them, deprecate and remove releases, and transfer modules;
readers hash all that they see. Any of the four processes is killed (SIGKILL) at random, stays away
for a random part of an hour, and comes back. In the end all that was acknowledged is looked for.
Writes its section of benchmarks/results/server.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from benchmarks.day_of_review import PASSING, Group, GroupDay, counted, judged
from benchmarks.machine import described
from benchmarks.server import seen_in_part, without_rates, write_section
from modpkg.core.errors import ModpkgError, RegistryUnreachable
from modpkg.registry.opening import open_place
from modpkg.registry.place import registry_at
from modpkg.registry.reader import Registry
from modpkg.server.accounts import make_administrator
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from registry_spec.check import check
from registry_spec.samples import Sample, Samples
from registry_spec.session_publisher import SessionPublisher
from tests.registry.places.postgresql import PostgreSQL
from tests.registry.places.servers import SeaweedFS
from tests.registry.places.store import LoopbackServer, stop
from tests.server.conftest import token_for
from tests.server.process import ServerProcess

NAMES = 8
PUBLISHERS = 8
GIVES_UP = 0.1
"""Part of the releases whose publisher does not try again."""
YANKS = 0.1
GROUPS = 3


class Killable:
    """A process of somebody else's server that can be killed, and started where it was."""

    def __init__(self, server: LoopbackServer, folder: Path) -> None:
        self.server = server
        folder.mkdir()
        self._folder = folder
        self._groups: list[int] = []

    def start(self) -> None:
        """Start it, again where what is left of the one before is still in its way."""
        ends = time.monotonic() + 90
        while True:
            self._groups = self.server.start(self._folder, os.getpid())
            try:
                return self.server.await_answer(self._folder, self._groups)
            except RuntimeError:
                stop(self._groups)
                if time.monotonic() > ends:
                    raise

    def kill(self) -> None:
        """Kill it and all that it has started."""
        stop(self._groups)


class _Quick(PostgreSQL):
    """PostgreSQL, of which nobody waits long to see that it did not start."""

    def await_answer(self, folder: Path, groups: object) -> None:
        for _ in range(100):
            with contextlib.suppress(psycopg.OperationalError), self._connected():
                return
            time.sleep(0.05)
        raise RuntimeError("it does not answer")


class Ledger:
    """What publishers were told, by name and version."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tried: dict[tuple[str, str], str] = {}
        self.acknowledged: set[tuple[str, str]] = set()
        self.yanked: dict[tuple[str, str], str] = {}
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def count(self, what: str) -> None:
        """Count something that happened."""
        with self.lock:
            self.counts[what] += 1


class _Day:
    """One run."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.hour: float = options.hour
        self.ends = time.monotonic() + options.hour * options.hours
        self.random = random.Random(options.seed)
        self.ledger = Ledger()
        self.samples = Samples(work / "samples")
        self.building = threading.Lock()
        self.names = [f"{self.samples.new_name()}-{number}" for number in range(NAMES)]
        self.versions = dict.fromkeys(self.names, 0)
        self.store = Killable(SeaweedFS(), work / "store")
        self.database = Killable(_Quick(), work / "database")
        self.work = work
        self.servers: list[ServerProcess] = []
        self.tokens: list[str] = []
        self.administrator = ""
        self.groups: list[Group] = []
        self.storage, self.database_url = "", ""

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.ends

    def begin(self) -> None:
        self.store.start()
        assert isinstance(self.store.server, SeaweedFS)
        self.store.server.fill()
        os.environ |= self.store.server.environment
        self.storage = f"{self.store.server.url}/day"
        self.database.start()
        assert isinstance(self.database.server, PostgreSQL)
        url = self.database_url = self.database.server.new_database()
        config = without_rates(self.work)
        self.servers = [
            ServerProcess(self.storage, self.work / f"{n}.txt", database=url, config=config)
            for n in range(2)
        ]
        # One registry names one API: both are asked, as behind a proxy.
        for server in self.servers:
            server.start()
        state = Server(ServerSettings(storage=self.storage, database=url))
        self.tokens = [token_for(state, f"publisher-{number}") for number in range(NAMES)]
        self.administrator = token_for(state, "administrator")
        make_administrator(state.database, "administrator")
        self.groups = [Group(number, self.samples.new_name(), state) for number in range(GROUPS)]
        state.close()

    def end(self) -> None:
        for server in self.servers:
            server.kill()
        self.store.kill()
        self.database.kill()

    # What people do

    def publisher(self, seed: int) -> SessionPublisher:
        at = random.Random(seed).randrange(len(self.servers))
        return SessionPublisher(f"{self.servers[at].url}/api/1/", self.tokens[seed % NAMES])

    def sample(self, number: int) -> tuple[str, Sample]:
        name = self.names[number % NAMES]
        with self.building:
            self.versions[name] += 1
            return name, self.samples.text(name, f"{self.versions[name]}.0", str(number))

    def publish(self, worker: int) -> None:
        """Publish one release after the other, each until it is acknowledged."""
        chance = random.Random(f"publisher {worker}")
        number = worker
        while not self.is_over:
            name, sample = self.sample(number)
            key, release = (name, sample.line.version), sample.line.release
            self.ledger.tried[key] = release
            patience = 1 if chance.random() < GIVES_UP else 10_000
            while patience and not self.is_over:
                patience -= 1
                owner = self.names.index(name)
                server = chance.choice(self.servers)
                publisher = SessionPublisher(f"{server.url}/api/1/", self.tokens[owner])
                try:
                    line = publisher.publish(sample)
                except PASSING as error:
                    self.failed(error)
                    time.sleep(chance.random() * self.hour / 8)
                    continue
                self.ledger.count("acknowledged")
                if line.release != release:
                    self.ledger.count("acknowledged with another release")
                self.ledger.acknowledged.add(key)
                if chance.random() < YANKS:
                    self.yank(publisher, key)
                break
            time.sleep(chance.random() * self.hour / 8)
            number += PUBLISHERS + 1

    def review(self, group: Group) -> None:
        """Let a group propose, decide, deprecate, remove and transfer."""

        def sample(name: str, version: str) -> Sample:
            with self.building:
                return self.samples.text(name, version, f"{name} {version}")

        apis = [f"{server.url}/api/1/" for server in self.servers]
        day = GroupDay(group, apis, self.administrator, sample, self.hour, lambda: self.is_over)
        day.live()

    def yank(self, publisher: SessionPublisher, key: tuple[str, str]) -> None:
        try:
            publisher.yank(*key, "of the day")
        except PASSING as error:
            self.failed(error)
        else:
            self.ledger.count("yanks that were acknowledged")
            self.ledger.yanked[key] = "of the day"

    def failed(self, error: Exception) -> None:
        self.ledger.count("requests that failed")
        code = getattr(error, "code", "") or type(error).__name__
        with self.ledger.lock:
            self.ledger.reasons[str(code)] += 1
        if code in ("M307", "RuleBroken"):
            with open(self.work / "failures.txt", "a") as file:
                file.write(f"{error}\n")

    def read(self, worker: int) -> None:
        """Read all that is named, from any server, as long as it answers."""
        chance = random.Random(f"reader {worker}")
        while not self.is_over:
            url = chance.choice(self.servers).url
            try:
                halves = seen_in_part(url, self.names)
            except ModpkgError:
                self.ledger.count("readers' passes that were interrupted")
            else:
                self.ledger.count("readers' passes")
                self.ledger.counts["releases seen in part"] += halves
            time.sleep(self.hour / 20)

    def kill(self, what: str, kill: Callable[[], None], start: Callable[[], None]) -> None:
        """Kill one process again and again."""
        chance = random.Random(f"{what} of {self.random.random()}")
        while not self.is_over:
            time.sleep(chance.uniform(0.5, 2.5) * self.hour)
            kill()
            self.ledger.count(f"kills of {what}")
            time.sleep(chance.uniform(0, 0.3) * self.hour)
            self.again(start)

    @staticmethod
    def again(start: Callable[[], None], failure: type[Exception] = RuntimeError) -> None:
        """Start a process, again if what it needs is away."""
        ends = time.monotonic() + 120
        while True:
            try:
                return start()
            except failure:  # noqa: PERF203
                if time.monotonic() > ends:
                    raise
                time.sleep(0.2)

    def run(self) -> None:
        killed: list[tuple[str, Callable[[], None], Callable[[], None]]] = [
            ("the storage", self.store.kill, self.store.start),
            ("the database", self.database.kill, self.database.start),
            *(("a server", server.kill, server.start) for server in self.servers),
        ]
        with ThreadPoolExecutor(PUBLISHERS + GROUPS + 2 + len(killed)) as pool:
            jobs = [pool.submit(self.publish, worker) for worker in range(PUBLISHERS)]
            jobs += [pool.submit(self.review, group) for group in self.groups]
            jobs += [pool.submit(self.read, worker) for worker in range(2)]
            jobs += [pool.submit(self.kill, *one) for one in killed]
            for job in jobs:
                job.result()

    def look(self) -> None:
        """Read the index of each module."""
        registry = registry_at(open_place(self.storage))
        for name in self.names:
            registry.index(name)

    def judge(self) -> dict[str, int]:
        """Look for everything that was tried, in the storage itself."""
        self.again(self.look, RegistryUnreachable)  # a store that has just started
        registry = registry_at(open_place(self.storage))
        found = {(n, line.version): line for n in self.names for line in registry.index(n)}
        ledger, releases = self.ledger, {key: line.release for key, line in found.items()}
        return {
            "releases that were acknowledged, and are not there": sum(
                releases.get(key) != ledger.tried[key] for key in ledger.acknowledged
            ),
            "releases that are there and nobody tried": sum(
                ledger.tried.get(key) != release for key, release in releases.items()
            ),
            "releases that are there, and not acknowledged": len(
                releases.keys() - ledger.acknowledged
            ),
            "releases that are not there, and not acknowledged": len(
                ledger.tried.keys() - releases.keys()
            ),
            "yanks that were acknowledged, and are not there": sum(
                found[key].yanked != reason for key, reason in ledger.yanked.items()
            ),
            **self.judge_groups(registry),
            "problems that `registry_spec check` finds": len(check(self.storage).problems),
        }

    def judge_groups(self, registry: Registry) -> dict[str, int]:
        """Return what groups were told and is not so, of each kind."""
        state = Server(ServerSettings(storage=self.storage, database=self.database_url))
        try:
            found = judged(self.groups, registry, state)
        finally:
            state.close()
        return {f"{what} that were acknowledged, and are not there": n for what, n in found.items()}


def faults(options: argparse.Namespace, work: Path) -> str:
    """Live through a day, and return its section."""
    day = _Day(options, work)
    try:
        day.begin()
        day.run()
        results = day.judge()
    finally:
        day.end()
        with contextlib.suppress(OSError):
            print((work / "failures.txt").read_text()[-3000:])
    print(day.ledger.reasons)
    for group in day.groups:
        print(group.name, group.counts, group.reasons)
        day.ledger.counts["requests that failed"] += group.counts["requests that failed"]
    counts = {"releases that were tried": len(day.ledger.tried), **sorted_counts(day.ledger)}
    counts |= counted(day.groups)
    return "\n".join(
        [
            "## A day with kills",
            "",
            f"{described()}. {options.hours} hours of {options.hour:g} s each, seed "
            f"{options.seed}: two servers on SeaweedFS and PostgreSQL, {PUBLISHERS} publishers, "
            f"who try again until a release is acknowledged (one in ten gives up), {GROUPS} groups "
            "of two, who propose, decide, deprecate, remove and transfer (an administrator "
            "removes), and two readers. Each process is killed (SIGKILL) every half to two and a "
            "half hours, and stays away for up to a third of one.",
            "",
            "| | |",
            "|---|--:|",
            *(f"| {what} | {count:,} |" for what, count in (counts | results).items()),
        ]
    )


def sorted_counts(ledger: Ledger) -> dict[str, int]:
    """Return what happened, in the order of its name."""
    ledger.counts.setdefault("releases seen in part", 0)
    return dict(sorted(ledger.counts.items()))


def main() -> None:
    """Run, and write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--hour", type=float, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="modpkg-day-") as scratch:
        section = faults(options, Path(scratch))
    write_section(section)
    print(section)


if __name__ == "__main__":
    main()
