"""What ``modpkg lock`` asks a registry for, behind a server with latency.

usage: python -m benchmarks.lock_requests [--modules N] [--milliseconds MS]

A project of many modules is locked in processes of its own. A server in this process answers each
request after the latency, and notes when it came and went. Without ``modules.jsonl``, each index
file is asked for, as before registries had their digests there.
"""

from __future__ import annotations

import argparse
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import described
from modpkg.core.filenames import LOCK_NAME, REGISTRY_MODULES
from modpkg.core.records import IndexLine, Provenance, ReleaseRecord, canonical_json
from modpkg.core.tree import BlobTree
from modpkg.registry.index import format_index
from modpkg.registry.writer import RegistryWriter

PAGE = Path(__file__).parent / "results" / "lock_requests.md"
TIMES = 5
Row = tuple[str, int, int, float]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with files, and with ETags."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    root = Path()
    latency = 0.0
    spans: list[tuple[float, float]] = []  # noqa: RUF012
    guard = threading.Lock()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        came = time.monotonic()
        time.sleep(self.latency)
        try:
            data = (self.root / self.path.lstrip("/")).read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()}"'
            status = 304 if self.headers.get("If-None-Match") == tag else 200
        except FileNotFoundError:
            data, tag, status = b"", "", 404
        with self.guard:
            self.spans.append((came, time.monotonic()))
        self.send_response(status)
        if tag:
            self.send_header("ETag", tag)
        if status != 304:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if status == 200:
            self.wfile.write(data)


@contextmanager
def served(root: Path, latency: float) -> Iterator[str]:
    """Serve a folder, and yield its address."""
    Handler.root, Handler.latency = root, latency
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Modules:
    """A registry of modules without weights, each of which requires two others."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self._lines: dict[str, list[IndexLine]] = {}
        self._blobs = BlobTree(folder)
        self._writer = RegistryWriter(folder, "benchmark")
        self._writer.prepare()

    def add(self, number: int, version: str) -> None:
        below = [f"m{child}" for child in (2 * number + 1, 2 * number + 2) if child < self.count]
        name = f"m{number}"
        record = ReleaseRecord(
            name=name,
            version=version,
            kind="collection",
            license="MIT",
            requires=below,
            manifest={},
            provenance=Provenance(built_with="benchmark"),
        )
        line = IndexLine(
            name=name,
            version=version,
            kind="collection",
            requires=below,
            release=self._blobs.add(canonical_json(record)),
        )
        self._lines.setdefault(name, []).append(line)

    def change(self, change: Callable[[IndexLine], IndexLine]) -> None:
        """Change each index line, and write them."""
        self._lines = {name: [*map(change, lines)] for name, lines in self._lines.items()}
        self.write()

    def write(self) -> None:
        for name, lines in self._lines.items():
            (self.folder / "index" / f"{name}.jsonl").write_bytes(format_index(lines))
        self._writer.describe_all()


def round_trips(spans: list[tuple[float, float]]) -> int:
    """Return the length of the longest chain of requests, one after the other."""
    ended: list[tuple[float, int]] = []
    for came, went in sorted(spans):
        ended.append((went, 1 + max((count for end, count in ended if end <= came), default=0)))
    return max((count for _, count in ended), default=0)


class Project:
    """A project whose first module leads to all others."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder / "project"
        self.home = folder / "home"
        self.folder.mkdir()
        (self.folder / "modpkg.toml").write_text(
            f'[app]\nname = "app"\n[registries]\ndefault = "{address}"\n[dependencies]\nm0 = "*"\n'
        )

    def lock(self, what: str, *options: str) -> Row:
        """Lock, and return what was done, the requests, the round trips, and the seconds."""
        Handler.spans.clear()
        began = time.monotonic()
        environment = os.environ | {"MODPKG_HOME": str(self.home), "NO_COLOR": "1"}
        command = [sys.executable, "-m", "modpkg", "lock", *options]
        subprocess.run(command, cwd=self.folder, env=environment, check=True, capture_output=True)
        seconds = time.monotonic() - began
        row = what, len(Handler.spans), round_trips(Handler.spans), seconds
        print(f"{what}: {row[1]} requests, {row[2]} round trips, {seconds:.2f} s", flush=True)
        return row

    def best(self, what: str, *options: str) -> Row:
        """Lock several times with a warm cache, and return the fastest."""
        return min((self.lock(what, *options) for _ in range(TIMES)), key=lambda row: row[3])


def measure(count: int, latency: float) -> Iterator[Row]:
    """Yield the rows of the page."""
    with tempfile.TemporaryDirectory(prefix="modpkg-requests-") as name:
        folder = Path(name)
        modules = Modules(folder / "registry", count)
        for number in range(count):
            modules.add(number, "1.0")
        modules.write()
        listed = modules.folder / REGISTRY_MODULES
        with served(modules.folder, latency) as address:
            project = Project(folder, address)
            yield project.lock("nothing in the cache, no lock file")
            listed.rename(folder / "aside")
            yield project.best("unchanged, without `modules.jsonl`")
            (folder / "aside").rename(listed)
            yield project.best("unchanged")
            (project.folder / LOCK_NAME).unlink()
            yield project.lock("unchanged, no lock file")
            for number in range(0, count, count // 20):
                modules.add(number, "1.1")
            modules.write()
            yield project.lock("20 modules changed, `--upgrade`", "--upgrade")
            for number in range(count):
                modules.add(number, "1.2")
            modules.write()
            yield project.lock("all modules changed, `--upgrade`", "--upgrade")
            shutil.rmtree(project.home)
            yield project.lock("nothing in the cache, with a lock file")


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--modules", type=int, default=200)
    parser.add_argument("--milliseconds", type=int, default=50)
    options = parser.parse_args()
    rows = list(measure(options.modules, options.milliseconds / 1000))
    table = "\n".join(f"| {what} | {n} | {trips} | {s:.2f} |" for what, n, trips, s in rows)
    PAGE.write_text(
        f"""# Requests of `modpkg lock`

`python -m benchmarks.lock_requests`: a project of {options.modules} modules, each of which
requires two others, and a registry behind HTTP/1.1 on this
machine that answers each request after {options.milliseconds} ms. Round trips are
the longest chain of requests of which each came after the one before was answered; at most 64 are
made at the same time, so that a few hundred take several. Seconds are of the whole command,
interpreter included; of what is unchanged, the fastest of {TIMES}.

{described()}

| state | requests | round trips | seconds |
|---|---|---|---|
{table}

Before `modules.jsonl` had the digests of index files, each file was asked for each time, as in the
second row.
"""
    )
    print(f"Wrote {PAGE}.")


if __name__ == "__main__":
    main()
