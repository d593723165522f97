"""The pages that are only read."""

from __future__ import annotations

from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from msgspec.structs import replace

from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.records import Provenance, ReleaseRecord
from modpkg.registry.index import format_index
from modpkg.server.app import make_app
from modpkg.server.clock import now
from modpkg.server.events import log_event
from modpkg.server.pages.rendering import HEADERS
from modpkg.server.state import Server
from modpkg.server.tables import Account, DownloadCount, Event, Membership, Module, Role
from tests.server.pages.conftest import EVIL, PACK, add_release, tensor
from tests.server.pages.parsed import ParsedPage

Browser = TestClient[Litestar]

PAGES = [
    *("/", "/search", "/search?q=tiny", "/search?q=nothing-like-it&kind=base", "/events"),
    *("/modules/talker", "/modules/talker/1.0", "/modules/talker/versions"),
    *("/modules/talker/compare/1.0/2.0", "/modules/tiny", "/modules/tiny/1.0/tensors"),
    *("/modules/tiny/1.0/tensors?layer=1", "/modules/tiny/1.0/tensors?layer=other"),
    *("/modules/tiny-lora/2.0/tensors", "/modules/tiny-lora/compare/1.0/2.0", "/modules/words"),
    *("/modules/many", "/modules/many/versions", "/modules/many/versions?page=2"),
    *("/modules/evil", "/modules/evil/versions", "/modules/evil/1.0/tensors", "/people/ada"),
    *("/modules/evil/1.0/tensors?layer=2", "/modules/evil/compare/1.0/1.0", "/organisations/acme"),
]


@pytest.fixture(scope="module", autouse=True)
def people(site: Server) -> None:
    """Two accounts, and what they did; what the pages of people show."""
    with site.database.begin() as db:
        ada = Account(name="ada", full_name=EVIL, created=now())
        acme = Account(name="acme", is_organisation=True, created=now())
        db.add_all([ada, acme, Module(name="talker", created=now(), archived=EVIL)])
        db.add(Module(name="words", created=now()))
        db.flush()
        db.add(Role(module="talker", account_id=ada.id, role="maintainer"))
        db.add(Role(module="talker", account_id=acme.id, role="owner"))
        db.add(Membership(organisation_id=acme.id, person_id=ada.id, role="owner"))
        db.add(DownloadCount(module="talker", version="1.0", day=f"{now():%Y-%m-%d}", count=3))
        db.add(DownloadCount(module="talker", version="1.0", day="2020-01-01", count=4))
        db.flush()
        log_event(db, "ada", "yank", "talker", "1.0", reason=EVIL)


@pytest.mark.parametrize("address", PAGES)
def test_a_page_has_nothing_of_an_attacker_and_is_small(browser: Browser, address: str) -> None:
    answer = browser.get(address)
    assert answer.status_code == 200
    parsed = ParsedPage(answer.text)
    assert parsed.foreign == []
    assert "\u202e" not in answer.text
    assert "60481729" not in parsed.text
    assert len(answer.content) < 100_000
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "set-cookie" not in answer.headers


def test_links_of_pages_lead_to_pages(browser: Browser) -> None:
    known = {"/login", "/account", "/api/1/schema/openapi.json"}
    for address in PAGES:
        for link in ParsedPage(browser.get(address).text).links:
            to = link.get("href") or ""
            if not to.startswith("/") or to in known or "evil" in address or "/candidates" in to:
                continue
            known.add(to)
            assert browser.get(to).status_code == 200, (address, to)


def test_a_module_shows_what_is_known_of_it(browser: Browser) -> None:
    text = ParsedPage(browser.get("/modules/talker").text).text
    for part in ("talker 2.0", "7, 3 in the last 30 days", "modpkg install talker", "ada", "acme"):
        assert part in " ".join(text.split())
    assert (
        "The newest version to use is 2.0"
        in ParsedPage(browser.get("/modules/talker/1.0").text).text
    )
    assert "talker" in ParsedPage(browser.get("/modules/tiny-lora").text).text  # needed by it


def test_a_name_has_one_address(browser: Browser) -> None:
    answer = browser.get("/modules/Tiny_LoRA", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (301, "/modules/tiny-lora")


@pytest.mark.parametrize(
    "address",
    [
        *(
            "/modules/talke",
            "/modules/talker/9.9",
            "/modules/talker/not-a-version",
            "/nothing/here",
        ),
        *("/modules/..%2f..%2fetc", "/modules/%00", "/modules/tiny/1.0/tensors?layer=77"),
        *("/modules/tiny/1.0/tensors?layer=%3Cb%3E", "/people/nobody", "/people/acme"),
        *(
            "/organisations/ada",
            "/static/nothing.css",
            "/static/..%2fapp.py",
            "/modules/" + "a" * 300,
        ),
        *("/modules/words/1.0/files/notes.txt", "/modules/words/1.0/files/absent.png"),
        *("/modules/words/1.0/files/..%2f..%2fregistry.json", f"/modules/{EVIL[:60]}"),
    ],
)
def test_what_is_not_there_is_said_on_a_page_with_a_search(browser: Browser, address: str) -> None:
    answer = browser.get(address)
    parsed = ParsedPage(answer.text)
    assert answer.status_code in (400, 404)
    assert parsed.foreign == []
    assert answer.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]


def test_a_misspelt_name_leads_to_the_right_one(browser: Browser) -> None:
    assert {"href": "/modules/talker"} in ParsedPage(browser.get("/modules/talke").text).links


def test_programs_get_errors_as_json(browser: Browser) -> None:
    answer = browser.get("/api/1/nothing", headers={"Accept": "*/*"})
    assert (answer.status_code, answer.json()["code"]) == (404, "M459")


@pytest.mark.parametrize("address", ["/search?page=0", "/search?page=x", "/events?before=-1"])
def test_a_wrong_number_is_refused_on_a_page(browser: Browser, address: str) -> None:
    answer = browser.get(address)
    assert answer.status_code == 400
    assert ParsedPage(answer.text).foreign == []


def test_images_of_a_readme_come_from_its_release_alone(browser: Browser) -> None:
    assert '<img src="/modules/words/1.0/files/loss.png"' in browser.get("/modules/words").text
    answer = browser.get("/modules/words/1.0/files/loss.png")
    assert answer.headers["content-type"] == "image/png"
    assert "sandbox" in answer.headers["Content-Security-Policy"]


def test_what_the_form_chooses_stays_on_this_site(browser: Browser) -> None:
    address = "/modules/tiny/compare?from=//evil.example&to=\\evil"
    answer = browser.get(address, follow_redirects=False)
    assert answer.headers["location"] == "/modules/tiny/compare/%2F%2Fevil.example/%5Cevil"


def test_private_modules_are_nowhere(browser: Browser, site: Server) -> None:
    with site.database.begin() as db:
        db.get_one(Module, "words").is_private = True
        log_event(db, "ada", "publish", "words", "1.0")
        assert not db.query(Event).filter(Event.module == "words").one().is_public
    try:
        assert browser.get("/modules/words").status_code == 404
        assert browser.get("/modules/words/1.0/tensors").status_code == 404
        assert browser.get("/modules/words/1.0/files/loss.png").status_code == 404
        assert "words" not in browser.get("/events").text
    finally:
        with site.database.begin() as db:
            db.get_one(Module, "words").is_private = False


def test_pages_of_thousands_stay_small(browser: Browser, registry: Path) -> None:
    long = "x" * 300
    names = [f"layers.{n % 200}.{long}.{n}.part{n % 700}.weight" for n in range(8_000)]
    for version in ("1.0", "2.0"):
        record = ReleaseRecord(
            name="huge",
            version=version,
            kind="base",
            license="MIT",
            summary=long,
            manifest={"tests": [{"name": f"{n}{long}", "metric": long} for n in range(500)]},
            packs={PACK: 1 << 30},
            tensors={name: tensor(n, version) for n, name in enumerate(names)},
            requires=[f"{'y' * 80}{n}" for n in range(500)],
            provenance=Provenance(built_with="modpkg"),
        )
        add_release(registry, record)
    for address in ("", "/2.0/tensors", "/2.0/tensors?layer=7", "/compare/1.0/2.0", "/versions"):
        answer = browser.get(f"/modules/huge{address}")
        assert answer.status_code == 200
        assert len(answer.content) < 100_000, address


def test_a_removed_release_leaves_a_page(browser: Browser, registry: Path) -> None:
    record = ReleaseRecord(
        name="gone",
        version="1.0",
        kind="collection",
        license="MIT",
        manifest={},
        requires=["talker"],
        provenance=Provenance(built_with="modpkg"),
    )
    line = add_release(registry, record)
    tombstone = replace(line, yanked=EVIL, removed=EVIL, deprecated=EVIL, successor=EVIL)
    (registry / "index" / "gone.jsonl").write_bytes(format_index([tombstone]))
    (registry / blob_path(parse_digest(line.release))).unlink()
    for address in ("/modules/gone", "/modules/gone/1.0", "/modules/gone/versions"):
        answer = browser.get(address)
        assert answer.status_code == 200
        assert ParsedPage(answer.text).foreign == []
        assert "removed by an administrator" in answer.text
        assert "modpkg install" not in answer.text
    assert browser.get("/modules/gone/1.0/tensors").status_code == 404
    assert browser.get("/modules/gone/compare/1.0/1.0").status_code == 404


def test_a_mistake_is_said_without_what_it_was(
    site: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret path")

    monkeypatch.setattr("modpkg.server.pages.site.versions_page", broken)
    with TestClient(make_app(site), raise_server_exceptions=False) as client:
        answer = client.get("/modules/talker/versions", headers={"Accept": "text/html"})
    assert answer.status_code == 500
    assert "This server made a mistake" in answer.text
    assert "secret" not in answer.text
    assert "ZeroDivision" not in answer.text
