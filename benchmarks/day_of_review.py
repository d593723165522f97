"""What groups do in a day besides publishing: candidates, approvals, decisions, deprecations,
removals and transfers, each tried again until somebody knows what has become of it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from msgspec import UNSET
from sqlalchemy import select

from modpkg.core.errors import ModpkgError
from modpkg.core.records import IndexLine
from modpkg.registry.candidates import read_candidates, read_thread
from modpkg.registry.reader import Registry
from modpkg.server.state import Server
from modpkg.server.tables import Account, Role
from registry_spec.rules import RuleBroken
from registry_spec.samples import Sample
from registry_spec.session_publisher import SessionPublisher
from tests.server.conftest import token_for

T = TypeVar("T")
REASON = "of the day"
REJECTS = 0.25
"""Part of the candidates that are rejected."""
KINDS = (
    *("candidates", "approvals", "decisions", "accepted releases"),
    *("deprecations", "removals", "transfers"),
)
PASSING = (OSError, ModpkgError, RuleBroken, ValueError)
_DECIDED, _NOT_OFFERED, _HIS_ALREADY = "M468", "M441", "M449"
"""What is answered where the answer to the same request before was lost."""


class Group:
    """Two people and a module, which the one owns and the other proposes changes to."""

    def __init__(self, number: int, name: str, state: Server) -> None:
        self.name = name
        self.people = [f"group-{number}-{who}" for who in ("ada", "bob")]
        self.tokens = [token_for(state, person) for person in self.people]
        self.owner: int | None = 0
        """Which of the people owns the module; None if the day ended before they knew."""
        self.submitted: dict[int, str] = {}
        """By number, the release digests of candidates."""
        self.decided: dict[int, str] = {}
        self.approved: set[int] = set()
        self.accepted: dict[str, str] = {}
        """By version, the release digests of what was published by accepting it."""
        self.deprecated: set[str] = set()
        self.removed: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()


class GroupDay:
    """The day of one group, on any of the servers."""

    def __init__(
        self,
        group: Group,
        apis: Sequence[str],
        administrator: str,
        sample: Callable[[str, str], Sample],
        hour: float,
        is_over: Callable[[], bool],
    ) -> None:
        """``administrator`` is a token, and ``sample`` builds a release of a name and version."""
        self._group = group
        self._apis = apis
        self._administrator = administrator
        self._sample = sample
        self._hour = hour
        self._is_over = is_over
        self._chance = random.Random(group.name.rpartition("-")[2])

    def live(self) -> None:
        """Propose, decide and change what was decided, until the day is over."""
        group, version = self._group, 1
        first = self._sample(group.name, "1.0")
        if self._until(self._own, lambda at: at.publish(first)) is None:
            return
        group.accepted["1.0"] = first.line.release
        while not self._is_over():
            version += 1
            self._review(f"{version}.0")
            act = self._chance.choice([self._deprecate, self._remove, self._transfer])
            act()
            time.sleep(self._chance.random() * self._hour / 8)

    def _review(self, version: str) -> None:
        group = self._group
        sample = self._sample(group.name, version)
        number = self._until(self._other, lambda at: at.submit(sample, REASON))
        if number is None:
            return
        group.submitted[number] = sample.line.release
        path = f"modules/{group.name}/candidates/{number}"
        if self._sent(self._own, f"{path}/approvals", {"text": "Good."}):
            group.approved.add(number)
        rejects = self._chance.random() < REJECTS
        what, status = ("reject", "rejected") if rejects else ("accept", "accepted")
        if self._sent(self._own, f"{path}/{what}", {"reason": REASON}, _DECIDED):
            group.decided[number] = status
            if not rejects:
                group.accepted[version] = sample.line.release

    def _deprecate(self) -> None:
        if (version := self._any_version()) is not None:
            body = {"version": version, "reason": REASON}
            if self._sent(self._own, f"modules/{self._group.name}/deprecate", body):
                self._group.deprecated.add(version)

    def _remove(self) -> None:
        version = self._any_version()
        if version is None or len(self._group.accepted) - len(self._group.removed) < 2:
            return
        body = {"version": version, "reason": REASON}
        path = f"modules/{self._group.name}/remove"
        if self._sent(lambda: self._administrator, path, body):
            self._group.removed.add(version)

    def _transfer(self) -> None:
        group, other = self._group, 1 - self._owner()
        path = f"modules/{group.name}/transfer"
        if self._sent(self._own, path, {"to": group.people[other]}, _HIS_ALREADY):
            if self._sent(self._other, f"{path}/accept", {}, _NOT_OFFERED):
                group.owner = other
                group.counts["transfers"] += 1
            else:
                group.owner = None

    def _any_version(self) -> str | None:
        there = sorted(self._group.accepted.keys() - self._group.removed)
        return self._chance.choice(there) if there else None

    def _owner(self) -> int:
        if self._group.owner is None:
            raise AssertionError("the day is over")
        return self._group.owner

    def _own(self) -> str:
        return self._group.tokens[self._owner()]

    def _other(self) -> str:
        return self._group.tokens[1 - self._owner()]

    def _sent(self, who: Callable[[], str], path: str, body: dict[str, str], *settled: str) -> bool:
        """Send a request until it is answered; return whether it was."""
        done = self._until(who, lambda at: at.request("POST", path, body).status, *settled)
        return done is not None

    def _until(
        self, who: Callable[[], str], act: Callable[[SessionPublisher], T], *settled: str
    ) -> T | int | None:
        """Do something until it is acknowledged; return None if the day is over before.

        A refusal with a code of ``settled``, after an attempt that failed, says that it was done.
        """
        failed = False
        while not self._is_over():
            try:
                return act(SessionPublisher(self._chance.choice(self._apis), who()))
            except PASSING as error:  # noqa: PERF203
                code = getattr(error, "code", "") or type(error).__name__
                if failed and code in settled:
                    return 0
                failed = True
                self._group.counts["requests that failed"] += 1
                self._group.reasons[code] += 1
                time.sleep(self._chance.random() * self._hour / 8)
        return None


def judged(groups: Iterable[Group], registry: Registry, state: Server) -> dict[str, int]:
    """Return how often what was acknowledged is not so, in the storage and the database."""
    lost = Counter(dict.fromkeys(KINDS, 0))
    for group in groups:
        lines = {line.version: line for line in registry.index(group.name)}
        candidates = {one.number: one for one in read_candidates(registry, group.name)}
        for number, release in group.submitted.items():
            one = candidates.get(number)
            lost["candidates"] += one is None or one.line.release != release
            if number in group.decided:
                lost["decisions"] += one is None or one.status != group.decided[number]
        for number in group.approved:
            thread = read_thread(registry, group.name, number)
            lost["approvals"] += all(entry.kind != "approval" for entry in thread)
        for version, release in group.accepted.items():
            lost["accepted releases"] += not _is(lines.get(version), release)
        for version in group.deprecated:
            line = lines[version]
            lost["deprecations"] += line.removed is UNSET and line.deprecated != REASON
        for version in group.removed:
            lost["removals"] += lines[version].removed is UNSET
        if group.owner is None:
            continue
        with state.database.begin() as db:
            owners = select(Account.name).join(Role, Role.account_id == Account.id)
            named = owners.where(Role.module == group.name, Role.role == "owner")
            lost["transfers"] += [*db.scalars(named)] != [group.people[group.owner]]
    return dict(lost)


def _is(line: IndexLine | None, release: str) -> bool:
    return line is not None and line.release == release


def counted(groups: Sequence[Group]) -> dict[str, int]:
    """Return how much was acknowledged, of each kind."""
    return {
        "candidates that were submitted": sum(len(one.submitted) for one in groups),
        "approvals": sum(len(one.approved) for one in groups),
        "candidates that were accepted": sum(len(one.accepted) - 1 for one in groups),
        "candidates that were rejected": sum(
            status == "rejected" for one in groups for status in one.decided.values()
        ),
        "deprecations": sum(len(one.deprecated) for one in groups),
        "removals": sum(len(one.removed) for one in groups),
        "transfers": sum(one.counts["transfers"] for one in groups),
    }
