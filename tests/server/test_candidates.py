"""Candidates by the API: who may say and decide what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar.testing import TestClient
from sqlalchemy import select

from modpkg.core.candidates import CandidateReport
from modpkg.core.records import canonical_json
from modpkg.registry.candidates import read_candidate, read_thread
from modpkg.server.app import make_app
from modpkg.server.callers import ACTIONS
from modpkg.server.settings import ServerLimits, ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account, Event, Module, Role
from tests.changing import numbers, write
from tests.server.conftest import token_for
from tests.server.publisher import Publisher, built

TENSORS = numbers("a", "b", "c")


class World:
    """A server with ``words`` 1.0 of mary, whose reviewer is rita, and candidate 1 by ada."""

    def __init__(self, root: Path, **more: Any) -> None:
        self.root = root
        self.server = Server(ServerSettings(storage=str(root / "registry"), name="test", **more))
        self.server.prepare()
        self.client = TestClient(make_app(self.server))
        self.people = {name: self.person(name) for name in ("mary", "rita", "ada", "eve")}
        self.people["mary"].publish(*self.build("1.0"))
        with self.server.database.begin() as db:
            rita = db.scalar(select(Account.id).where(Account.name == "rita"))
            db.add(Role(module="words", account_id=rita, role="reviewer"))

    def person(self, name: str, actions: str = " ".join(ACTIONS)) -> Publisher:
        return Publisher(self.client, token_for(self.server, name, actions))

    def build(self, version: str, **more: Any) -> Any:
        folder = write(self.root / f"words-{version}", TENSORS | more, "words", version)
        return built(folder, self.server.place)

    def submit(self, version: str, by: str = "ada", **more: Any) -> int:
        tree, line = self.build(version, **more)
        who = self.people[by]
        answer = who.declare(tree, line, candidate=True, message="Better.").json()
        if answer["state"] == "open":
            who.upload(tree, answer)
            answer = who.commit(answer["id"]).json()
        number: int = answer["candidate"]
        return number

    def asked(self, who: str | Publisher, path: str, **body: Any) -> tuple[int, str]:
        """Return the status and, of a refusal, the code."""
        person = self.people[who] if isinstance(who, str) else who
        path = f"modules/words/candidates/{path}"
        answer = person.request("POST", path, content=canonical_json(body))
        return answer.status_code, answer.json().get("code", "")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.server.close()


def test_who_may_say_what(world: World) -> None:
    assert world.submit("1.1") == 1
    report = {"report": {"tool": "vet", "verdict": "reject", "reason": "Worse."}}
    assert world.asked("eve", "1/comments", text="Why?") == (201, "")
    assert world.asked("eve", "1/approvals") == (403, "M432")
    assert world.asked("eve", "1/reports", **report) == (403, "M432")
    assert world.asked("ada", "1/reports", **report) == (201, "")
    assert world.asked("rita", "1/reports", **report) == (201, "")
    assert world.asked("rita", "1/approvals", text="Good.") == (201, "")
    nobody = Publisher(world.client, "")
    nobody.headers = {}
    assert world.asked(nobody, "1/comments", text="!") == (401, "M431")
    reading = world.person("eve", "read")
    assert world.asked(reading, "1/comments", text="!") == (403, "M432")
    assert world.asked("eve", "2/comments", text="!") == (404, "M467")
    path = "modules/words/candidates/2/comments"
    answer = world.people["eve"].request("POST", path, content=b'{"text":"!"}').json()
    assert world.server.settings.url in answer["message"]
    assert world.server.place.url not in answer["message"]
    assert world.asked("eve", "1/comments", text="\x1b") == (400, "M459")
    thread = read_thread(world.server.registry(), "words", 1)
    assert [(entry.by, entry.kind) for entry in thread] == [
        ("eve", "comment"),
        ("ada", "report"),
        ("rita", "report"),
        ("rita", "approval"),
    ]
    assert thread[1].report == CandidateReport(tool="vet", verdict="reject", reason="Worse.")


def test_who_may_decide(world: World) -> None:
    world.submit("1.1")
    for who in ("eve", "ada", "rita"):
        assert world.asked(who, "1/accept") == (403, "M432")
        assert world.asked(who, "1/reject", reason="no") == (403, "M432")
        said = world.people[who].request(
            "POST", "modules/words/candidates/1/reject", content=b'{"reason":"no"}'
        )
        assert "reject candidates of" in said.json()["message"]
    assert world.asked("mary", "1/withdraw") == (403, "M432")
    assert world.asked("mary", "1/accept") == (409, "M472")
    world.asked("rita", "1/approvals")
    assert world.asked("mary", "1/accept") == (200, "")
    assert world.asked("mary", "1/reject", reason="no") == (409, "M468")
    line = world.server.registry().line("words", "1.1")
    assert line.release == read_candidate(world.server.registry(), "words", 1).line.release
    assert world.submit("1.2") == 2
    assert world.asked("ada", "2/withdraw", reason="Not yet.") == (200, "")
    assert read_candidate(world.server.registry(), "words", 2).status == "withdrawn"
    with world.server.database.begin() as db:
        rows = db.execute(select(Event.actor, Event.action, Event.version).order_by(Event.id))
        events = [tuple(row) for row in rows if row.action.startswith("candidate.")]
    assert events == [
        ("rita", "candidate.approval", None),
        ("mary", "candidate.accept", "1.1"),
        ("ada", "candidate.withdraw", "1.2"),
    ]


def test_nobody_approves_what_he_submitted(world: World) -> None:
    world.submit("1.1", by="rita")
    assert world.asked("rita", "1/approvals") == (409, "M449")
    assert read_thread(world.server.registry(), "words", 1) == []
    assert world.asked("mary", "1/accept") == (409, "M472")
    assert world.asked("mary", "1/approvals") == (201, "")


def test_a_failing_report_is_overruled_with_a_reason(world: World) -> None:
    world.submit("1.1")
    world.asked("rita", "1/approvals")
    world.asked("rita", "1/reports", report={"tool": "vet", "verdict": "reject"})
    assert world.asked("mary", "1/accept") == (409, "M471")
    assert world.asked("mary", "1/accept", anyway=True) == (409, "M471")
    assert world.asked("mary", "1/accept", anyway=True, reason="It is wrong.") == (200, "")


def test_a_version_that_is_too_low_by_now_is_refused(world: World) -> None:
    world.submit("1.1", d=numbers("d")["d"])  # a tensor more is a minor change of 1.0
    world.asked("rita", "1/approvals")
    with world.server.database.begin() as db:
        module = db.get(Module, "words")
        assert module is not None
        module.archived = "done"
    assert world.asked("mary", "1/accept") == (409, "M453")
    with world.server.database.begin() as db:
        module = db.get(Module, "words")
        assert module is not None
        module.archived = None
    world.submit("1.0.1", e=numbers("e")["e"])
    world.asked("rita", "2/approvals")
    assert world.asked("mary", "2/accept") == (409, "M761")
    assert world.asked("mary", "1/accept") == (200, "")


def test_a_private_module_is_nobody_elses(world: World) -> None:
    world.submit("1.1")
    with world.server.database.begin() as db:
        module = db.get(Module, "words")
        assert module is not None
        module.is_private = True
    assert world.asked("eve", "1/comments", text="?") == (404, "M439")
    assert world.asked("eve", "1/accept") == (404, "M439")


def test_an_account_has_so_many_open_candidates(tmp_path: Path) -> None:
    limits = ServerLimits(open_candidates=1)
    world = World(tmp_path, limits=limits)
    assert world.submit("1.1") == 1
    assert world.submit("1.1") == 1  # the same one
    tree, line = world.build("1.2", c=numbers("d")["d"])
    refused = world.people["ada"].declare(tree, line, candidate=True)
    assert (refused.status_code, refused.json()["code"]) == (413, "M451")
    assert world.submit("1.3", "eve") == 2
    assert world.asked("ada", "1/withdraw") == (200, "")
    assert world.people["ada"].declare(tree, line, candidate=True).status_code == 200
    world.server.close()
