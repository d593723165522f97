"""The pages of a served registry: server time, bytes, what axe finds, and pictures of them.

usage: python -m benchmarks.pages [--registry FOLDER] [--rounds N] [--pictures FOLDER]

FOLDER is a registry of `examples/build_registry.py` (`make demo`). A copy of it gets a module of
30,000 tensors and one of 3,000 versions, people, a candidate and downloads, and is served by
`modpkg registry serve`. Each page is asked for by a client on this machine, the first time and then
N times, and looked at by Chromium in the light, in the dark and as wide as a phone. Writes
benchmarks/results/pages.md, and pictures as WebP (to docs/pages by default). Ends with status 1 if
a page is over 100 kB, is wider than its window, or axe finds something wrong with it.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from msgspec.structs import replace

from benchmarks.machine import described
from modpkg.core.candidates import CandidateLine, CandidateReport, ThreadEntry
from modpkg.core.records import IndexLine, Provenance, ReleaseRecord, canonical_json
from modpkg.core.tree import BlobTree
from modpkg.registry.candidates import CandidateFile, encoded_entry, format_candidates
from modpkg.registry.index import format_index
from modpkg.registry.reader import Registry
from modpkg.server.api_tokens import add_token
from modpkg.server.callers import ANYBODY
from modpkg.server.clock import now
from modpkg.server.events import log_event
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account, DownloadCount, Membership, Module, Role
from modpkg.server.web_logins import begin_login
from tests.server.browser import DESKTOP, PHONE, HeadlessBrowser, headless_browser, save
from tests.server.pages.conftest import PACK, add_release, tensor
from tests.server.process import ServerProcess

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "pages.md"
AHEAD_SECONDS = 30
"""In which a server looks at the newest releases; see `modpkg.server.pages.ahead`."""
MOST_BYTES = 100_000
PAGES = {
    "front": "/",
    "search": "/search?q=summar",
    "module": "/modules/summarizer",
    "readme": "/modules/minilm-l6",
    "versions": "/modules/summarizer/versions",
    "tensors": "/modules/summarize-lora/1.2.0/tensors",
    "layer": "/modules/smollm2-135m/1.0.0/tensors?layer=3",
    "compare": "/modules/summarize-lora/compare/1.0.0/1.2.0",
    "candidates": "/modules/summarize-lora/candidates",
    "candidate": "/modules/summarize-lora/candidates/1",
    "person": "/people/ada",
    "organisation": "/organisations/newsroom",
    "events": "/events",
    "login": "/login",
    "register": "/register",
    "missing": "/modules/summariser",
    "many-tensors": "/modules/many-tensors",
    "many-tensors, tensors": "/modules/many-tensors/2.0/tensors",
    "many-tensors, a layer": "/modules/many-tensors/2.0/tensors?layer=7",
    "many-tensors, compared": "/modules/many-tensors/compare/1.0/2.0",
    "many-versions": "/modules/many-versions",
    "many-versions, versions": "/modules/many-versions/versions?page=3",
}
OWN = {"account": "/account", "review": "/modules/summarize-lora/candidates/1"}
"""Of somebody who is logged in."""
UNSHOWN = "many-"
"""What the names of pages begin with that have no pictures; the others have them in all looks."""
PICTURE_BYTES = 40_000
LOOKS = {"light": (DESKTOP, False), "dark": (DESKTOP, True), "phone": (PHONE, False)}


def add_many(registry: Path) -> None:
    """Add a module of 30,000 tensors, in two versions, and one of 3,000 versions."""
    numbers = range(30_000)
    for version, changed in (("1.0", 0), ("2.0", 10_000)):
        tensors = {
            f"model.layers.{n % 60}.mlp.experts.{n // 60}.w1.weight": tensor(
                n, version if n < changed else "1.0"
            )
            for n in numbers
        }
        record = ReleaseRecord(
            name="many-tensors",
            version=version,
            kind="base",
            license="MIT",
            summary="A mixture of many experts, for measuring pages",
            manifest={},
            packs={PACK: 1 << 30},
            tensors=tensors,
            provenance=Provenance(built_with="modpkg"),
        )
        add_release(registry, record)
    record = ReleaseRecord(
        name="many-versions",
        version="1.0",
        kind="collection",
        license="MIT",
        summary="A release for every night, for measuring pages",
        manifest={},
        provenance=Provenance(built_with="modpkg"),
    )
    line = add_release(registry, record)
    lines = [line]
    for n in range(1, 3000):
        later = replace(record, version=f"1.{n}")
        release = BlobTree(registry).add(canonical_json(later))
        lines.append(replace(line, version=later.version, release=release))
    (registry / "index" / "many-versions.jsonl").write_bytes(format_index(lines))


def add_candidate(registry: Path) -> IndexLine:
    """Add a candidate, and what is said about it."""
    lines = Registry(str(registry)).index("summarize-lora")
    old, new = (Registry(str(registry)).record(line) for line in lines)
    # The lower layers as they were before: at their smaller rank.
    tensors = new.tensors | {
        name: entry
        for name, entry in old.tensors.items()
        if any(f".layers.{layer}." in name for layer in range(10))
    }
    packs = old.packs | new.packs
    record = replace(new, version="1.3.0", tensors=tensors, packs=packs)
    line = replace(
        lines[-1], version="1.3.0", release=BlobTree(registry).add(canonical_json(record)), size=0
    )
    at = f"{now():%Y-%m-%dT%H:%M:%SZ}"
    message = "The lower ten layers at rank 4 again.\nSmaller, and the summaries are as good."
    one = CandidateLine(number=1, line=line, by="bob", at=at, message=message)
    report = CandidateReport(
        tool="vet",
        verdict="reject",
        reason="keeps names is worse than before: 0.31 where it was 0.36",
        machine="AMD EPYC, 2 cores, Linux, modpkg 0.1.0",
        against="summarize-lora 1.2.0",
        document={
            "changes": [
                {"after": _result("keeps names", "rouge_l", 0.31, 0.29, 0.33, False)},
                {"after": _result("is short", "exact_match", 0.94, 0.92, 0.96, True)},
            ]
        },
    )
    entries = [
        ThreadEntry(kind="comment", by="ada", at=at, text="Is it still good at names?"),
        ThreadEntry(kind="report", by="ada", at=at, report=report),
        ThreadEntry(kind="comment", by="bob", at=at, text="I will train it a little longer."),
        ThreadEntry(kind="approval", by="carol", at=at, text="Good enough for us."),
    ]
    folder = registry / "candidates"
    (folder / "summarize-lora").mkdir(parents=True)
    data = format_candidates(CandidateFile([one], []))
    (folder / "summarize-lora.jsonl").write_bytes(data)
    (folder / "summarize-lora" / "1.jsonl").write_bytes(b"".join(map(encoded_entry, entries)))
    return line


def _result(
    test: str, metric: str, value: float, low: float, high: float, passed: bool
) -> dict[str, object]:
    return {
        "test": test,
        "metric": metric,
        "value": value,
        "low": low,
        "high": high,
        "passed": passed,
    }


def add_people(server: Server) -> str:
    """Add people, what they own and did, and downloads; return the cookie of a login."""
    with server.database.begin() as db:
        people = {name: Account(name=name, created=now()) for name in ("ada", "bob", "carol")}
        group = Account(
            name="newsroom", full_name="The newsroom", is_organisation=True, created=now()
        )
        db.add_all([*people.values(), group])
        names = ("summarizer", "summarize-lora", "smollm2-135m", "minilm-l6", "sentiment")
        db.add_all(Module(name=name, created=now()) for name in names)
        db.flush()
        for name in names:
            db.add(Role(module=name, account_id=group.id, role="owner"))
            db.add(Role(module=name, account_id=people["ada"].id, role="maintainer"))
        db.add(Role(module="summarize-lora", account_id=people["carol"].id, role="reviewer"))
        for name, role in (("ada", "owner"), ("bob", "member")):
            row = Membership(organisation_id=group.id, person_id=people[name].id, role=role)
            db.add(row)
        for days in range(60):
            day = (now() - datetime.timedelta(days=days)).date().isoformat()
            for number, name in enumerate(names):
                count = (7 + days) // (number + 1)
                db.add(DownloadCount(module=name, version="1.0.0", day=day, count=count))
        db.flush()
        for name in names:
            log_event(db, "ada", "publish", name, "1.0.0")
        log_event(db, "bob", "candidate.submit", "summarize-lora", "1.3.0", number=1)
        ada = people["ada"]
        expires = now() + datetime.timedelta(days=30)
        add_token(db, ada.id, "laptop", ["read", "publish", "submit"], ["summar*"], expires)
        add_token(db, ada.id, "nightly job", ["read"], ["*"], expires)
        return begin_login(db, server.settings, ada, ANYBODY)


@contextmanager
def served(source: Path, work: Path) -> Iterator[tuple[ServerProcess, str]]:
    """Give a server of a copy of a registry with all that the pages show, and a cookie."""
    registry = work / "registry"
    leave = shutil.ignore_patterns(".server", "locks")
    shutil.copytree(source, registry, ignore=leave)
    add_many(registry)
    add_candidate(registry)
    state = Server(ServerSettings(storage=str(registry)))
    state.prepare()
    cookie = add_people(state)
    state.close()
    process = ServerProcess(str(registry), work / "server.log")
    process.start()
    time.sleep(AHEAD_SECONDS)
    try:
        yield process, cookie
    finally:
        process.kill()


def timed(client: httpx.Client, address: str, rounds: int) -> tuple[float, list[float], int, int]:
    """Return seconds of the first request, those of the next ones, bytes, and the status."""
    taken = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        answer = client.get(address)
        taken.append(time.perf_counter() - begun)
    return taken[0], taken[1:], len(answer.content), answer.status_code


def look(browser: HeadlessBrowser, url: str, name: str, pictures: Path | None) -> list[str]:
    """Return what is wrong with a page in any of its looks, and take pictures."""
    wrong = []
    for key, (width, dark) in LOOKS.items():
        browser.show(width=width, dark=dark)
        browser.open(url)
        wrong += [f"{name}, {key}: {one}" for one in browser.violations()]
        if browser.width() > width:
            wrong.append(f"{name}, {key}: {browser.width()} pixels wide")
        if pictures is not None:
            most = 900 if width == DESKTOP else 1100
            quality = 70
            while len(image := browser.picture(quality=quality, most=most)) > PICTURE_BYTES:
                quality -= 10 if quality > 20 else 5
            save(pictures / f"{name}-{key}.webp", image)
    return wrong


def main() -> int:
    """Measure, look, write the page of results; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--registry", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs" / "pages")
    arguments = parser.parse_args()
    rows, wrong = [], []
    with (
        tempfile.TemporaryDirectory(prefix="modpkg-pages-") as text,
        served(arguments.registry, Path(text)) as (process, cookie),
    ):
        cookies = {"modpkg": cookie}
        asked = [(name, address, {}) for name, address in PAGES.items()]
        asked += [(name, address, cookies) for name, address in OWN.items()]
        for name, address, jar in asked:
            with httpx.Client(base_url=process.url, cookies=jar) as client:
                client.get("/static/style.css")  # the connection is open
                headers = {"Accept": "text/html"}
                client.headers.update(headers)
                first, others, size, status = timed(client, address, arguments.rounds)
            if status != (404 if name == "missing" else 200):
                wrong.append(f"{name}: status {status}")
            if size >= MOST_BYTES:
                wrong.append(f"{name}: {size} bytes")
            rows.append((name, address, size, first, others))
        with headless_browser() as browser:
            for name, address, jar in asked:
                if jar:
                    browser.set_cookie("modpkg", cookie, process.url)
                pictures = None if name.startswith(UNSHOWN) else arguments.pictures
                wrong += look(browser, process.url + address, name, pictures)
    for one in wrong:
        print(one)
    write(rows, arguments.rounds, len(wrong))
    return int(bool(wrong))


def write(rows: list[tuple[str, str, int, float, list[float]]], rounds: int, wrong: int) -> None:
    """Write the page of results."""
    lines = [
        "# The pages of a served registry",
        "",
        "`python -m benchmarks.pages`: `modpkg registry serve` (one process, SQLite, a folder) on",
        f"{described()}.",
        "",
        "The registry of `make demo`, with a module of 30,000 tensors and one of 3,000 versions.",
        "Times are those of a client on the same machine, from the request to the last byte. The",
        "first request comes when the server has had half a minute to look at what is new; the",
        f"others are the median and the slowest of {rounds}.",
        "",
        "| page | bytes | first, ms | median, ms | slowest, ms |",
        "|---|---|---|---|---|",
    ]
    for name, _, size, first, others in rows:
        times = (first, statistics.median(others), max(others))
        shown = " | ".join(f"{one * 1000:.1f}" for one in times)
        lines.append(f"| {name} | {size:,} | {shown} |")
    lines += [
        "",
        f"In Chromium, light, dark and {PHONE} pixels wide: {wrong} pages over 100 kB, wider than",
        "their window, or with something that axe-core finds wrong.",
        "",
    ]
    RESULTS.write_text("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
