"""The pages in a real browser: on a desk in the light, in the dark, on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modpkg.core.candidates import CandidateLine, CandidateReport, ThreadEntry
from modpkg.registry.candidates import CandidateFile, encoded_entry, format_candidates
from modpkg.registry.reader import Registry
from modpkg.server.callers import ANYBODY
from modpkg.server.clock import now
from modpkg.server.events import log_event
from modpkg.server.state import Server
from modpkg.server.tables import Account, Membership, Module, Role
from modpkg.server.web_logins import begin_login
from tests.server.browser import PHONE, HeadlessBrowser, headless_browser
from tests.server.live import live_server

PAGES = [
    *("/", "/search?q=t", "/search?q=absent", "/events", "/login", "/register", "/nothing"),
    *("/modules/talker", "/modules/words", "/modules/tiny/1.0/tensors", "/modules/many/versions"),
    *("/modules/tiny-lora/2.0/tensors?layer=1", "/modules/tiny-lora/2.0/tensors"),
    *("/modules/tiny-lora/compare/1.0/2.0", "/modules/evil", "/modules/evil/1.0/tensors"),
    *("/people/ada", "/organisations/acme", "/modules/talker/candidates"),
    "/modules/talker/candidates/1",
]
OWN = ["/account", "/modules/talker/candidates/1"]
"""Pages that are looked at once more by somebody who is logged in."""


@pytest.fixture(scope="module")
def served(registry: Path) -> Iterator[tuple[Server, str]]:
    """A server that is listened to, and the value of a login's cookie."""
    line = Registry(str(registry)).index("talker")[0]
    one = CandidateLine(number=1, line=line, by="ada", at="2026-11-28T10:00:00Z", message="Better.")
    report = CandidateReport(tool="vet", verdict="reject", reason="worse", machine="a laptop")
    report.document = {
        "changes": [{"after": {"test": "t", "metric": "m", "value": 0.5, "passed": False}}]
    }
    entries = [
        ThreadEntry(kind="approval", by="bob", at=one.at, text="Good."),
        ThreadEntry(kind="report", by="bob", at=one.at, report=report),
    ]
    (registry / "candidates" / "talker").mkdir(parents=True, exist_ok=True)
    (registry / "candidates" / "talker.jsonl").write_bytes(
        format_candidates(CandidateFile([one], []))
    )
    (registry / "candidates" / "talker" / "1.jsonl").write_bytes(
        b"".join(map(encoded_entry, entries))
    )
    with live_server(registry) as server:
        with server.database.begin() as db:
            ada = Account(name="ada", created=now(), is_administrator=True)
            acme = Account(name="acme", is_organisation=True, created=now())
            db.add_all([ada, acme, Module(name="talker", created=now())])
            db.flush()
            db.add(Role(module="talker", account_id=ada.id, role="owner"))
            db.add(Membership(organisation_id=acme.id, person_id=ada.id, role="owner"))
            log_event(db, "ada", "publish", "talker", "1.0")
            value = begin_login(db, server.settings, ada, ANYBODY)
        yield server, value


@pytest.fixture(scope="module")
def browser() -> Iterator[HeadlessBrowser]:
    with headless_browser() as made:
        yield made


def test_each_page_is_for_everybody(served: tuple[Server, str], browser: HeadlessBrowser) -> None:
    server, value = served
    wrong: list[object] = []

    def look(address: str, width: int, dark: bool) -> None:
        browser.open(server.settings.url + address)
        wrong.extend((address, width, dark, one) for one in browser.violations())
        if browser.width() > width:
            wrong.append((address, "is wider than its window", browser.width()))

    for width, dark in ((1200, False), (PHONE, True)):
        browser.show(width=width, dark=dark)
        for address in PAGES:
            look(address, width, dark)
    browser.set_cookie(server.cookie, value, server.settings.url)
    for address in OWN:
        look(address, PHONE, True)
        assert "ada" in browser.run("document.body.innerText")
    assert wrong == [], "\n".join(map(str, wrong))
    ours = [one for one in browser.complaints if "404" not in one]
    assert ours == []  # a page may not load anything that its policy forbids, and does not try
    assert all(one.startswith(server.settings.url) for one in browser.requests)


def test_a_command_is_copied(served: tuple[Server, str], browser: HeadlessBrowser) -> None:
    server, _ = served
    browser.open(f"{server.settings.url}/modules/talker")
    browser.run("window.copied = ''; navigator.clipboard.writeText = async t => { copied = t }")
    text = browser.run("document.querySelector('[data-copy]').click(); copied")
    assert text.startswith("modpkg install talker --registry http://127.0.0.1")
