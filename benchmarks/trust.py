"""What trust costs: an install from a registry with everything to check, compared with none of it.

usage: python -m benchmarks.trust [--modules N] [--runs N]

Two registries of the same modules lie behind a server of this process that answers each request
after a delay. A project is installed from each in a process of its own, with nothing in the cache.
Writes benchmarks/results/trust.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from benchmarks.lock_requests import Handler, Modules, round_trips, served
from benchmarks.machine import described
from modpkg.core.digests import parse_digest
from modpkg.core.records import IndexLine, ReleaseRecord
from modpkg.core.tree import BlobTree
from modpkg.core.version import __version__
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.signature_files import signatures_path
from modpkg.trust.bins import bits_for
from modpkg.trust.bundle import sign_statement
from modpkg.trust.lives import Lives
from modpkg.trust.log.appending import LogWriter
from modpkg.trust.metadata_writer import MetadataWriter
from modpkg.trust.private_key import PrivateKey, new_key, read_key
from modpkg.trust.root_metadata import name_root, new_root, signed_root, write_root
from modpkg.trust.statement import release_statement

PAGE = Path(__file__).parent / "results" / "trust.md"
DELAYS = (0.02, 0.1)
"""Seconds after which a request is answered, in turn: what grows with them is round trips."""
MOST_SECONDS = 0.1
OTHERS = 10_000
"""Names beside those of the project, in a registry whose index is signed."""
NAMES = {
    "without": "nothing to check",
    "signed": "all signed",
    "index": "a signed index",
    "all": "both, and a log",
}
MOST_TRIPS = 2.0


class Run(Struct, frozen=True):
    """What one command took."""

    cpu: float
    """Seconds of the processor, of user and system."""
    wall: float
    memory: int
    """The most that was resident, KiB."""
    requests: int
    chain: int
    """The longest chain of requests, one after the other."""


def measured(command: list[str], folder: Path, environment: dict[str, str]) -> Run:
    """Run a command to its end."""
    Handler.spans.clear()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1):
            os.dup2(null, stream)
        os.execve(command[0], command, environment)
    _, status, usage = os.wait4(child, 0)
    wall = time.monotonic() - began
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return Run(
        usage.ru_utime + usage.ru_stime,
        wall,
        usage.ru_maxrss,
        len(Handler.spans),
        round_trips(Handler.spans),
    )


class Installer:
    """Installs all modules of a registry, with a home and a project of its own each time."""

    def __init__(self, registry: Path, folder: Path) -> None:
        self.registry, self.folder = registry, folder

    def run(self, delay: float) -> tuple[Run, Run]:
        """Install with nothing in the cache, then with all locked modules resolved again."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        environment = os.environ | {"MODPKG_HOME": str(self.folder / "home"), "NO_COLOR": "1"}
        with served(self.registry, delay) as address:
            (self.folder / "modpkg.toml").write_text(
                f'[app]\nname = "app"\n[registries]\ndefault = "{address}"\n'
                '[dependencies]\nm0 = "*"\n'
            )
            command = [sys.executable, "-m", "modpkg", "install"]
            first = measured(command, self.folder, environment)
            return first, measured([*command, "--upgrade"], self.folder, environment)


def sign_all(modules: Modules, key: PrivateKey) -> None:
    """Sign each release as `modpkg publish --sign` does."""
    blobs = BlobTree(modules.folder)

    def signed(line: IndexLine) -> IndexLine:
        release = parse_digest(line.release)
        data = blobs.read(release, "a release record")
        record = msgspec.json.decode(data, type=ReleaseRecord)
        path = modules.folder / signatures_path(release)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            sign_statement(release_statement(record, release, __version__), key) + b"\n"
        )
        return structs.replace(line, signed=True)

    modules.change(signed)


def sign_index(folder: Path, key: PrivateKey) -> None:
    """Sign the index as `modpkg registry trust init` does; one key is all of its keys."""
    place, days = FolderPlace(folder), datetime.timedelta(days=9)
    until = datetime.datetime.now(datetime.timezone.utc) + days
    root = signed_root(new_root(1, [key.public], 1, key.public, until), [key], None)
    write_root(place, root, None)
    name_root(place, root)
    for number in range(OTHERS):  # so that bins are as full as those of a large registry
        (folder / "index" / f"other-{number}.jsonl").touch()
    MetadataWriter(place, [key], lives=Lives(days, days)).sign_all(bits=bits_for(OTHERS))


def begin_log(folder: Path, key: PrivateKey) -> None:
    """Write all releases into a log, as `modpkg registry serve` does with one."""
    place = FolderPlace(folder)
    LogWriter(place, key).begin("models.example/log", place)


def prepared(folder: Path, count: int) -> Iterator[tuple[str, Installer]]:
    """Make the registries, and yield how to install from each."""
    new_key(folder / "key.pem", "ed25519", None)
    key = read_key(folder / "key.pem", lambda: "")
    for name in NAMES:
        modules = Modules(folder / name, count)
        for number in range(count):
            modules.add(number, "1.0")
        modules.write()
        if name in ("signed", "all"):
            sign_all(modules, key)
        if name == "all":
            begin_log(modules.folder, key)
        if name in ("index", "all"):
            sign_index(modules.folder, key)
        yield name, Installer(modules.folder, folder / f"{name}-app")


def slope(runs: Sequence[tuple[float, Run]]) -> float:
    """Return by how many delays an install takes longer where each answer has one more."""
    walls = [statistics.median(run.wall for at, run in runs if at == delay) for delay in DELAYS]
    return (walls[1] - walls[0]) / (DELAYS[1] - DELAYS[0])


def row(what: str, runs: Sequence[tuple[float, Run]]) -> tuple[str, float, float]:
    """Return a line of the page, the processor's milliseconds, and the round trips."""
    every = [run for _, run in runs]
    cpu = 1000 * statistics.median(run.cpu for run in every)
    trips = slope(runs)
    memory = statistics.median(run.memory for run in every) / 1024
    requests = statistics.median(run.requests for run in every)
    chain = statistics.median(run.chain for run in every)
    line = f"| {what} | {cpu:.0f} | {requests:.0f} | {trips:.1f} | {chain:.0f} | {memory:.0f} |"
    return line, cpu, trips


def is_met(milliseconds: float, trips: float) -> bool:
    """Return whether what checking adds is as little as is wanted."""
    return milliseconds <= 1000 * MOST_SECONDS and round(trips) <= MOST_TRIPS


def main() -> None:
    """Measure in turn, so that a drift of the machine affects all alike."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--modules", type=int, default=50)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, Run]]] = {}
    with tempfile.TemporaryDirectory(prefix="modpkg-trust-") as name:
        installers = dict(prepared(Path(name), options.modules))
        order = [*installers.items()]
        for turn in range(options.runs + 1):
            order = [*order[1:], order[0]]  # what one leaves to the disk is another one's each time
            for delay in DELAYS:
                for label, installer in order:
                    for what, run in zip(("first", "again"), installer.run(delay), strict=True):
                        if turn:  # the first one warms up the machine's caches
                            found.setdefault((what, label), []).append((delay, run))
    titles = {
        "first": "`modpkg install`, nothing in the cache",
        "again": "`modpkg install --upgrade`, nothing has changed",
    }
    lines, verdicts = [], []
    for what, title in titles.items():
        base, cpu, trips = row(f"{title}: {NAMES['without']}", found[what, "without"])
        lines.append(base)
        for label in (one for one in installers if one != "without"):
            line, more_cpu, more_trips = row(f"… {NAMES[label]}", found[what, label])
            lines.append(line)
            verdicts.append(
                f"{title}, {NAMES[label]}: {more_cpu - cpu:+.0f} ms of the processor, "
                f"{more_trips - trips:+.1f} round trips: "
                + ("as wanted." if is_met(more_cpu - cpu, more_trips - trips) else "too many.")
            )
    PAGE.write_text(
        f"""# What trust costs

`python -m benchmarks.trust`: a project of {options.modules} small modules, each of which requires
two others, is locked and installed over HTTP/1.1 from this machine, in a process of its own.
Medians of {options.runs} runs at each of two delays, {1000 * DELAYS[0]:.0f} and
{1000 * DELAYS[1]:.0f} ms before each answer. Round trips: by how many delays the command takes
longer when each is longer. The longest chain: requests of which each came after the one before was
answered. A signed index has {OTHERS:,} names more, in {1 << bits_for(OTHERS)} bins. Processor
time is of user and system, the interpreter's start included.

{described()}

| | processor, ms | requests | round trips | longest chain | memory, MiB |
|---|---:|---:|---:|---:|---:|
{chr(10).join(lines)}

More than with nothing to check:

{chr(10).join(f"- {one}" for one in verdicts)}

Wanted: at most {1000 * MOST_SECONDS:.0f} ms of the processor and {MOST_TRIPS:.0f} round trips more.
"""
    )
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
