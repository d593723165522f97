"""The pages of candidates."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from msgspec.structs import replace

from modpkg.core.candidates import CandidateLine, CandidateReport, ThreadEntry
from modpkg.core.records import Provenance, ReleaseRecord, canonical_json
from modpkg.core.tree import BlobTree
from modpkg.registry.candidates import CandidateFile, encoded_entry, format_candidates
from modpkg.registry.reader import Registry
from modpkg.server.app import make_app
from modpkg.server.callers import ANYBODY
from modpkg.server.clock import now
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account, Module, Role
from modpkg.server.web_logins import begin_login
from tests.server.pages.conftest import EVIL, PACK, add_release, tensor
from tests.server.pages.parsed import ParsedPage

Browser = TestClient[Litestar]
AT = "2026-11-28T10:00:00Z"
PAGES = [
    *("/modules/parts/candidates", "/modules/parts/candidates?status=open"),
    *(f"/modules/parts/candidates/{number}" for number in range(1, 5)),
    *("/modules/parts/candidates/1?page=2", "/modules/fresh/candidates"),
    *("/modules/fresh/candidates/1", "/modules/parts/1.0"),
]


def parts(version: str, **changed: int) -> ReleaseRecord:
    numbers = {"a": 1, "b": 2, "c": 3} | changed
    return ReleaseRecord(
        name="parts",
        version=version,
        kind="base",
        license="MIT",
        manifest={"tests": [{"name": "keeps names", "metric": "rouge_l", "at_least": 0.3}]},
        packs={PACK: 1 << 20},
        tensors={f"layers.0.{name}": tensor(number) for name, number in numbers.items()},
        provenance=Provenance(built_with="modpkg"),
    )


@pytest.fixture(scope="module", autouse=True)
def review(registry: Path) -> None:
    """A module with candidates of each status, and what is said about them."""
    first = add_release(registry, parts("1.0"))
    records = [parts("1.1", a=11, b=12), parts("1.2", b=22, c=23), parts("1.3"), parts("1.4", a=9)]
    lines = [
        replace(first, version=one.version, release=BlobTree(registry).add(canonical_json(one)))
        for one in records
    ]
    made = [
        CandidateLine(number=1, line=lines[0], by="ada", at=AT, message="Better.\nMuch."),
        CandidateLine(number=2, line=lines[1], by=EVIL, at=AT, message=EVIL),
        CandidateLine(
            number=3,
            line=lines[2],
            by="bob",
            at=AT,
            status="rejected",
            decided_by=EVIL,
            reason=EVIL,
        ),
        CandidateLine(
            number=4,
            line=first,
            by="bob",
            at=AT,
            status="accepted",
            decided_by="ada",
            decided_at=AT,
        ),
        CandidateLine(number=5, line=replace(lines[3], release=PACK), by="bob", at=AT),
    ]
    document = {
        "changes": [
            {
                "after": {
                    "test": "keeps names",
                    "metric": "rouge_l",
                    "value": 0.41,
                    "low": 0.4,
                    "high": 0.5,
                    "passed": True,
                }
            },
            {"after": {"test": EVIL, "metric": EVIL, "value": float(1), "passed": EVIL}},
            {"after": {"test": "x", "value": EVIL}},
            {"after": 1},
            EVIL,
        ]
    }
    report = CandidateReport(
        tool="vet", verdict="reject", reason=EVIL, machine=EVIL, against=EVIL, document=document
    )
    folder = registry / "candidates"
    (folder / "parts").mkdir(parents=True)
    (folder / "fresh").mkdir()
    (folder / "parts.jsonl").write_bytes(format_candidates(CandidateFile(made, [b"broken"])))
    entries = [
        ThreadEntry(kind="comment", by=EVIL, at=AT, text=f"{EVIL}\n\nline"),
        ThreadEntry(kind="approval", by="carol", at=AT),
        ThreadEntry(kind="report", by="carol", at=AT, report=report),
        *(ThreadEntry(kind="comment", by="bob", at=AT, text="x" * 9_000) for _ in range(60)),
    ]
    for number in (1, 4):
        path = folder / "parts" / f"{number}.jsonl"
        path.write_bytes(b"".join(map(encoded_entry, entries)))
    fresh = replace(first, name="fresh")
    record = replace(parts("1.0"), name="fresh")
    fresh.release = BlobTree(registry).add(canonical_json(record))
    only = CandidateLine(number=1, line=fresh, by="ada", at=AT)
    (folder / "fresh.jsonl").write_bytes(format_candidates(CandidateFile([only], [])))
    assert Registry(str(registry)).index("parts")


@pytest.mark.parametrize("address", PAGES)
def test_a_page_has_nothing_of_an_attacker_and_is_small(browser: Browser, address: str) -> None:
    answer = browser.get(address)
    assert answer.status_code == 200
    assert ParsedPage(answer.text).foreign == []
    assert len(answer.content) < 100_000


def test_a_candidate_shows_what_it_changes_and_what_is_said(browser: Browser) -> None:
    page = ParsedPage(browser.get("/modules/parts/candidates/1").text)
    text = " ".join(page.text.split())
    assert "1 same, 2 changed" in text
    assert "approved by carol" in text
    assert "1 failing report" in text
    assert "keeps names rouge_l 0.41 (0.4 to 0.5) passes" in text
    assert "#2 1.2: 1 tensor, layers.0.b" in text
    assert "modpkg vet parts#1 --report" in text
    assert any("/login" in (link["href"] or "") for link in page.links)


def test_candidates_are_listed_and_counted(browser: Browser) -> None:
    text = " ".join(ParsedPage(browser.get("/modules/parts").text).text.split())
    assert "Candidates 3" in text
    listed = ParsedPage(browser.get("/modules/parts/candidates").text).text
    assert listed.index("#5") < listed.index("#1")
    shown = ParsedPage(browser.get("/modules/parts/candidates?status=rejected").text).text
    assert "#3" in shown
    assert "#1" not in shown


def test_results_that_were_reported_stand_beside_the_tests(browser: Browser) -> None:
    text = " ".join(ParsedPage(browser.get("/modules/parts").text).text.split())
    assert "keeps names rouge_l ≥ 0.3 0.41 (0.4 to 0.5), passes" in text


def test_a_candidate_whose_files_are_gone_has_a_page(browser: Browser) -> None:
    assert "Its files are gone" in browser.get("/modules/parts/candidates/5").text


@pytest.mark.parametrize("number", ["6", "0", "x", "-1", "9" * 30])
def test_a_number_that_no_candidate_has(browser: Browser, number: str) -> None:
    assert browser.get(f"/modules/parts/candidates/{number}").status_code == 404
    assert browser.get("/modules/absent/candidates").status_code == 404


def test_candidates_of_private_modules_are_nowhere(browser: Browser, site: Server) -> None:
    with site.database.begin() as db:
        db.add(Module(name="parts", is_private=True, created=now()))
    try:
        assert browser.get("/modules/parts/candidates").status_code == 404
        assert browser.get("/modules/parts/candidates/1").status_code == 404
    finally:
        with site.database.begin() as db:
            db.delete(db.get_one(Module, "parts"))


@pytest.fixture
def other_site(registry: Path, tmp_path: Path) -> Iterator[Server]:
    """A server on a copy, where a test may decide what other tests look at."""
    own = shutil.ignore_patterns(".server")
    copy = shutil.copytree(registry, tmp_path / "registry", ignore=own)
    made = Server(ServerSettings(storage=str(copy), url="https://models.example"))
    made.prepare()
    yield made
    made.close()


def test_a_candidate_is_discussed_and_decided_from_its_page(other_site: Server) -> None:
    site = other_site
    address = "/modules/parts/candidates/2"
    with site.database.begin() as db:
        db.add(Module(name="parts", created=now()))
        people = [Account(name=name, created=now()) for name in ("ada", "bob")]
        db.add_all(people)
        db.flush()
        db.add(Role(module="parts", account_id=people[0].id, role="owner"))
        cookies = [begin_login(db, site.settings, one, ANYBODY) for one in people]
    clients = []
    for cookie in [*cookies, ""]:
        client = TestClient(make_app(site), base_url="https://models.example")
        client.headers["Accept"] = "text/html"
        client.cookies.set(site.cookie, cookie, domain="models.example")
        clients.append(client)
    owner, other, anybody = clients

    def send(client: Browser, act: str, text: str = "", **more: str) -> tuple[int, str]:
        found = re.search(r'name="csrf" value="([^"]+)"', client.get(address).text)
        assert found is not None
        data = {"csrf": found[1], "act": act, "text": text} | more
        answer = client.post(address, data=data, follow_redirects=False)
        assert ParsedPage(answer.text).foreign == []
        return answer.status_code, answer.text

    assert 'value="accept"' in owner.get(address).text
    assert 'value="accept"' not in other.get(address).text
    assert 'value="approve"' in owner.get(address).text
    assert 'value="approve"' not in owner.get("/modules/parts/candidates/1").text  # her own
    assert send(other, "comment", EVIL)[0] == 303
    assert send(other, "comment", " ")[0] == 400
    assert send(other, "approve")[0] == 403
    assert send(other, "accept")[0] == 403
    assert send(other, "reject")[0] == 403
    assert send(other, "withdraw")[0] == 403
    assert send(owner, "approve", "Good.")[0] == 303
    assert "approved</span> by ada" in owner.get(address).text
    status, _ = send(owner, "reject", f"Not now. {EVIL}")
    assert status == 303
    page = owner.get(address).text
    assert ParsedPage(page).foreign == []
    assert "Rejected by ada" in page
    assert 'value="accept"' not in page
    assert send(owner, "approve")[0] == 409
    assert send(other, "comment", "A pity.")[0] == 303
    forged = {"csrf": "x" * 43, "act": "comment", "text": "x"}
    assert owner.post(address, data=forged, follow_redirects=False).status_code == 403
    assert anybody.post(address, data=forged, follow_redirects=False).status_code == 403
