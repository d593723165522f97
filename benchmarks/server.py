"""`modpkg registry serve` under load: index reads beside pypiserver and nginx; many publishers.

usage: python -m benchmarks.server reads --pypiserver PROGRAM [--rounds N] [--seconds N]
       python -m benchmarks.server publishers [--count N]

`reads` needs wrk and nginx, and `pypi-server` with waitress and watchdog in an environment of its
own (`pip install 'pypiserver[cache]' waitress`). Each part writes its section of
benchmarks/results/server.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.machine import described
from modpkg.core.errors import IntegrityError
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from registry_spec.check import check
from registry_spec.reading_rules import read_whole
from registry_spec.rules import RuleBroken
from registry_spec.samples import Sample, Samples
from registry_spec.session_publisher import SessionPublisher
from tests.modules import publish_versions
from tests.registry.places.nginx import Nginx
from tests.registry.places.store import free_port, stop
from tests.server.conftest import token_for
from tests.server.process import ServerProcess

RESULTS = Path(__file__).parent / "results" / "server.md"
MODULES = 100
VERSIONS = [f"{number}.0" for number in range(1, 6)]
CONNECTIONS = 32
AT_ONCE = 4
"""Publishers of one module at the same moment."""
_PATHS = """
local paths = {{ {paths} }}
local tags = {{ {tags} }}
local at = 0
request = function()
  at = at % #paths + 1
  local headers = {{}}
  if #tags > 0 then headers["If-None-Match"] = tags[at] end
  return wrk.format("GET", paths[at], headers)
end
"""


class Load(NamedTuple):
    """What one run of wrk measured."""

    rate: float
    """Requests per second."""
    median: float
    """Milliseconds."""
    late: float
    """Milliseconds, of which 99 % take less."""


class Target(NamedTuple):
    """What is asked: a server, and the paths of the same number of index pages."""

    name: str
    url: str
    paths: list[str]
    tags: list[str]
    """ETags that are sent along; empty for none."""


# Reads -------------------------------------------------------------------------------------


def reads(options: argparse.Namespace, work: Path) -> str:
    """Return the table of reads; each server is asked in turn, in each round."""
    registry = work / "registry"
    names = [f"module-{number:03}" for number in range(MODULES)]
    for name in names:
        publish_versions(registry, name, VERSIONS)
    paths = [f"/index/{name}.jsonl" for name in names]
    size = statistics.mean(len((registry / path[1:]).read_bytes()) for path in paths)
    with ExitStack() as held:
        ours = held.enter_context(_serving(registry, work))
        nginx = held.enter_context(_nginx(registry, work))
        logging = held.enter_context(_nginx(registry, work, logs=True))
        pypi = held.enter_context(_pypiserver(options.pypiserver, names, work))
        targets = [
            Target("modpkg registry serve", ours, paths, []),
            Target("nginx, the same files", nginx, paths, []),
            Target("nginx, with its access log", logging, paths, []),
            Target("pypiserver", pypi, [f"/simple/{name}/" for name in names], []),
            Target("modpkg, nothing new (304)", ours, paths, _tags(ours, paths)),
            Target("nginx, nothing new (304)", nginx, paths, _tags(nginx, paths)),
        ]
        for target in targets:  # whatever each of them keeps in memory
            wrk(target, 1, work)
        loads: dict[str, list[Load]] = {target.name: [] for target in targets}
        for _ in range(options.rounds):
            for target in targets:
                loads[target.name].append(wrk(target, options.seconds, work))
    rates = {name: statistics.median(load.rate for load in found) for name, found in loads.items()}
    by_nginx, by_pypi = rates["nginx, the same files"], rates["pypiserver"]
    lines = [
        "## Index reads",
        "",
        f"{described()}; load average {os.getloadavg()[0]:.1f} at the end. wrk with one thread and "
        f"{CONNECTIONS} connections asks for {MODULES} index pages in turn, of {size:.0f} bytes "
        f"from modpkg and nginx; medians of {options.rounds} rounds of {options.seconds} s, each "
        "server once per round. modpkg and nginx have one worker, pypiserver waitress's threads "
        "and its cache.",
        "",
        "| | requests/s | of nginx | of pypiserver | median | 99 % |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, found in loads.items():
        median = statistics.median(load.median for load in found)
        late = statistics.median(load.late for load in found)
        lines.append(
            f"| {name} | {rates[name]:,.0f} | {rates[name] / by_nginx:.2f} | "
            f"{rates[name] / by_pypi:.1f} | {median:.2f} ms | {late:.2f} ms |"
        )
    return "\n".join(lines)


def wrk(target: Target, seconds: int, work: Path) -> Load:
    """Ask a server as fast as it answers."""
    script = work / "paths.lua"
    prefix = urlsplit(target.url).path
    paths = ", ".join(f'"{prefix}{path}"' for path in target.paths)
    tags = ", ".join(f"'{tag}'" for tag in target.tags)
    script.write_text(_PATHS.format(paths=paths, tags=tags))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script)]
    done = subprocess.run([*command, target.url], capture_output=True, text=True, check=True)
    out = done.stdout
    if "Non-2xx" in out and not target.tags:
        raise SystemExit(f"{target.name} answers with errors:\n{out}")
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", out)
    if rate is None:
        raise SystemExit(out)
    return Load(float(rate[1]), _milliseconds(out, "50%"), _milliseconds(out, "99%"))


def _milliseconds(out: str, percentile: str) -> float:
    found = re.search(rf"{percentile}\s+([0-9.]+)(us|ms|s)\b", out)
    if found is None:
        raise SystemExit(out)
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def _tags(url: str, paths: list[str]) -> list[str]:
    tags = []
    for path in paths:
        with urllib.request.urlopen(url + path) as answer:
            tags.append(answer.headers["ETag"])
    return tags


@contextmanager
def _serving(registry: Path, work: Path) -> Iterator[str]:
    server = ServerProcess(str(registry), work / "server.txt")
    server.start()
    try:
        yield server.url
    finally:
        server.kill()


@contextmanager
def _nginx(registry: Path, work: Path, *, logs: bool = False) -> Iterator[str]:
    server = Nginx()
    server.logs = logs
    server.folder = work / f"nginx-{server.port}"
    server.folder.mkdir()
    groups = server.start(server.folder, os.getpid())
    try:
        server.await_answer(server.folder, groups)
        yield server.site(registry)
    finally:
        stop(groups)


@contextmanager
def _pypiserver(program: str, names: list[str], work: Path) -> Iterator[str]:
    packages, port = work / "packages", free_port()
    packages.mkdir()
    for name in names:
        for version in VERSIONS:
            (packages / f"{name.replace('-', '_')}-{version}.tar.gz").write_bytes(name.encode())
    command = [program, "run", "-p", str(port), "-i", "127.0.0.1", "--disable-fallback"]
    command += ["--server", "auto", "--backend", "cached-dir", str(packages)]  # auto: waitress
    with (work / "pypiserver.txt").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        _await(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/simple/").close())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _await(ready: Callable[[], None], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while True:
        try:
            return ready()
        except OSError:  # noqa: PERF203
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)


# Publishers --------------------------------------------------------------------------------


def publishers(options: argparse.Namespace, work: Path) -> str:
    """Let many publish at once, while others read; return what became of it.

    First each with a new name and a token of his own; then four at once to each of some modules.
    """
    samples = Samples(work / "samples")
    names = [f"crowd-{number:03}" for number in range(options.count)]
    own = [samples.text(name, "1.0") for name in names]
    shared = [
        samples.text(name, f"{version}.0")
        for version in range(2, 2 + AT_ONCE)
        for name in names[: options.count // AT_ONCE]
    ]
    storage = work / "registry"
    server = ServerProcess(str(storage), work / "server.txt", config=without_rates(work))
    server.start()
    try:
        api = f"{server.url}/api/1/"
        tokens = _tokens(storage, len(names))
        by_name = {
            name: SessionPublisher(api, token) for name, token in zip(names, tokens, strict=True)
        }
        crowds = [_crowd(server.url, wanted, by_name, names) for wanted in (own, shared)]
    finally:
        server.kill()
    found = {
        (name, line.version): line.release
        for name in names
        for line in Registry(str(storage)).index(name)
    }
    problems = check(str(storage)).problems
    rows = []
    for wanted, (seconds, failed, seen) in zip((own, shared), crowds, strict=True):
        lost = [s for s in wanted if found.get((s.line.name, s.line.version)) != s.line.release]
        rate = f"{len(wanted) / seconds:.0f}"
        rows.append([rate, str(len(failed)), str(len(lost)), str(len(seen)), str(sum(seen))])
    what = [
        "releases per second",
        "publishers that were refused",
        "releases that are not there",
        "readers' passes over all modules meanwhile, which hash every byte",
        "releases that were seen in part",
    ]
    return "\n".join(
        [
            "## Publishers",
            "",
            f"{described()}. {len(own)} publishers of small releases at the same moment, each in "
            "a thread of its own, with a token of its own; SQLite and a folder, one process. "
            f"First each has a new name; then {AT_ONCE} at once publish to each of "
            f"{options.count // AT_ONCE} modules.",
            "",
            "| | names of their own | shared |",
            "|---|--:|--:|",
            *(f"| {w} | {' | '.join(pair)} |" for w, *pair in zip(what, *rows, strict=True)),
            "",
            f"`registry_spec check` finds {len(problems)} problems in what they left.",
            *(f"\n{reason}" for _, failed, _ in crowds for reason in failed[:3]),
        ]
    )


def without_rates(work: Path) -> Path:
    """Return settings by which one address may send any number of requests."""
    path = work / "server.toml"
    path.write_text("[limits]\nrequests_per_second = 0\nopen_sessions = 1000\n")
    return path


def _tokens(storage: Path, count: int) -> list[str]:
    state = Server(ServerSettings(storage=str(storage)))
    try:
        return [token_for(state, f"publisher-{number}") for number in range(count)]
    finally:
        state.close()


def _crowd(
    url: str, samples: list[Sample], by_name: dict[str, SessionPublisher], names: list[str]
) -> tuple[float, list[str], list[int]]:
    """Publish all at once; return the seconds, the refusals, and what readers saw in part."""
    begin, over = threading.Barrier(len(samples) + 1), threading.Event()
    failed: list[str] = []

    def publish(sample: Sample) -> None:
        begin.wait()
        try:
            by_name[sample.line.name].publish(sample)
        except Exception as error:
            failed.append(f"{sample.line.name} {sample.line.version}: {error}")

    def read() -> list[int]:
        seen = []
        while not over.is_set():
            seen.append(seen_in_part(url, names))
        return seen

    with ThreadPoolExecutor(len(samples) + 2) as pool:
        reading = [pool.submit(read) for _ in range(2)]
        done = [pool.submit(publish, sample) for sample in samples]
        begin.wait()
        begun = time.perf_counter()
        for one in done:
            one.result()
        seconds = time.perf_counter() - begun
        over.set()
        return seconds, failed, [count for one in reading for count in one.result()]


def seen_in_part(url: str, names: list[str]) -> int:
    """Return how many releases are named, and not there whole.

    Raises:
        RegistryUnreachable: Nobody answers.
    """
    registry, count = Registry(url), 0
    for name in random.sample(names, len(names)):
        for line in registry.index(name):
            count += not _is_whole(registry, line)
    return count


def _is_whole(registry: Registry, line: IndexLine) -> bool:
    with contextlib.suppress(IntegrityError, RuleBroken):
        for digest, what in blobs_of(registry.record(line)):
            read_whole(registry, digest, what)
        return True
    return False


def main() -> None:
    """Do one part, and write its section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=["reads", "publishers"])
    parser.add_argument("--pypiserver", default="pypi-server")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="modpkg-server-") as scratch:
        section = {"reads": reads, "publishers": publishers}[options.part](options, Path(scratch))
    write_section(section)
    print(section)


def write_section(section: str) -> None:
    """Write a section of the page, in place of the one with its title."""
    title = "# `modpkg registry serve` under load\n\n`python -m benchmarks.server` and "
    title += "`benchmarks.server_faults`.\n"
    before = RESULTS.read_text() if RESULTS.exists() else title
    head, *sections = re.split(r"^(?=## )", before, flags=re.MULTILINE)
    name = section.splitlines()[0]
    kept = [old for old in sections if old.splitlines()[0] != name]
    parts = sorted([*kept, section + "\n"], key=lambda part: part.splitlines()[0])
    RESULTS.write_text(
        head.rstrip("\n") + "\n\n" + "\n\n".join(p.strip("\n") for p in parts) + "\n"
    )


if __name__ == "__main__":
    main()
