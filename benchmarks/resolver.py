"""Locking on hard and easy graphs, compared with resolvelib, nab-resolver and uv.

usage: python -m benchmarks.resolver [--limit SECONDS] [--largest NAMES] [--seeds N]

The limits are of process CPU time, so that a busy machine does not decide what finishes.

nab-resolver and uv are peers, not dependencies: `pip install nab-resolver uv`; missing ones
are skipped. Writes benchmarks/results/resolver.md and docs/resolver-growth.svg (with matplotlib).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import universe
from benchmarks.machine import described

RESULTS = Path(__file__).parent / "results" / "resolver.md"
PLOT = Path(__file__).parents[1] / "docs" / "resolver-growth.svg"
TIGHT = [
    (500, 20, 4, 0.1, 1),
    (300, 20, 4, 0.3, 1),
    (300, 20, 4, 0.1, 2),
    (1000, 20, 5, 0.1, 1),
    (1000, 30, 3, 0.05, 4),
    (3000, 30, 5, 0.2, 1),
]
EASY = [(500, 20, 4, 1), (2000, 20, 4, 1)]
GROWTH = [(300, 20), (1000, 20), (2000, 30), (5000, 50), (10000, 50)]


class Measured(NamedTuple):
    """One run of a process."""

    wall: float
    cpu: float
    mebibytes: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} ({self.cpu:.2f}, {self.mebibytes:.0f} MiB)"


def measure(command: Sequence[str], folder: Path, limit: float) -> Measured | str:
    """Run a command to its end; return its figures, or why it has none.

    ``limit`` is of its CPU seconds; one that does nothing is stopped after ten times as long.
    """
    begun = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 1))
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.execv(command[0], command)
    late = threading.Event()

    def stop() -> None:
        late.set()
        os.killpg(child, signal.SIGKILL)

    timer = threading.Timer(10 * limit, stop)
    timer.start()
    _, status, usage = os.wait4(child, 0)
    timer.cancel()
    if late.is_set() or os.WIFSIGNALED(status):
        return f"> {limit:.0f}"
    if status != 0:
        return f"failed ({os.waitstatus_to_exitcode(status)})"
    wall = time.perf_counter() - begun
    return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


class Simple(SimpleHTTPRequestHandler):
    """A simple index in JSON."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.endswith("/"):
            self.path += "index.json"
        super().do_GET()

    def guess_type(self, path: Any) -> str:
        json = "application/vnd.pypi.simple.v1+json"
        return json if str(path).endswith(".json") else "application/octet-stream"

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A server that ignores clients that were stopped at their limit."""

    def handle_error(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a simple index on loopback."""
    server = Server(("127.0.0.1", 0), partial(Simple, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple/"
    finally:
        server.shutdown()
        server.server_close()


def locked(folder: Path, limit: float, runs: int = 3) -> Measured | str:
    """Return the fastest of some runs of `modpkg lock` without an earlier lock."""
    command = [sys.executable, "-m", "modpkg", "lock", "--registry", str(folder / "registry")]
    best: Measured | str = "failed"
    for number in range(runs):
        (folder / "modpkg.lock").unlink(missing_ok=True)
        found = measure(command, folder, limit)
        if not isinstance(found, Measured):
            return found
        if number == 0 or found < best:  # type: ignore[operator]
            best = found
        if found.wall > 10:
            break
    return best


def spread(shape: tuple[int, int, int, float, int], seeds: int, limit: float) -> str:
    """Measure other seeds of one size."""
    names, versions, deps, tightness, _ = shape
    taken: list[float] = []
    late = 0
    for seed in range(1, seeds + 1):
        with tempfile.TemporaryDirectory() as name:
            table = universe.tight(names, versions, deps, tightness, seed)
            universe.write_registry(table, Path(name))
            found = locked(Path(name), limit, 1)
        if isinstance(found, Measured):
            taken.append(found.cpu)
        else:
            late += 1
    worst = f"> {limit:.0f}" if late else f"{max(taken):.2f}"
    middle = f"{statistics.median(taken):.2f}" if taken else "-"
    return f"| {names}, {versions}, {deps}, {tightness} | {seeds} | {middle} | {worst} |"


def peers_named() -> str:
    """Return the peers' names and versions."""
    found = [f"resolvelib {version('resolvelib')}"]
    if importlib.util.find_spec("nab_resolver") is not None:
        found.append(f"nab-resolver {version('nab-resolver')}")
    uv = shutil.which("uv")
    if uv is not None:
        shown = subprocess.run([uv, "--version"], capture_output=True, text=True, check=True)
        found.append(" ".join(shown.stdout.split()[:2]))
    return ", ".join(found)


def compiled(folder: Path, limit: float) -> Measured | str:
    """Return the second run of `uv pip compile`: the first one fills its cache of metadata."""
    uv = shutil.which("uv")
    if uv is None:
        return "not there"
    with served(folder) as address:
        command = [uv, "pip", "compile", "requirements.in", "--index-url", address, "-q"]
        command += ["--cache-dir", str(folder / "uv-cache"), "--no-config"]
        first = measure(command, folder, limit)
        return measure(command, folder, limit) if isinstance(first, Measured) else first


def peer(name: str, folder: Path, limit: float) -> Measured | str:
    """Return one of the Python peers' runs."""
    if name == "nab" and importlib.util.find_spec("nab_resolver") is None:
        return "not there"
    return measure(
        [sys.executable, "-m", "benchmarks.resolver_peers", name, str(folder)], Path.cwd(), limit
    )


def row(label: str, table: universe.Table, limit: float) -> str:
    """Measure one graph with every engine."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        universe.write_registry(table, folder)
        universe.write_simple(table, folder)
        ours = locked(folder, 2 * limit)
        others = [peer("stock", folder, limit), peer("nab", folder, limit)]
        others.append(compiled(folder, limit))
        check = measure([sys.executable, "-m", "modpkg", "lock", "--check"], folder, limit)
    best = min((o.wall for o in others if isinstance(o, Measured)), default=None)
    if isinstance(ours, Measured) and best is not None:
        ratio = f"{best / ours.wall:.1f}×"
    else:
        ratio = f"> {limit / ours.cpu:.0f}×" if isinstance(ours, Measured) else "-"
    cells = " | ".join(map(str, [ours, *others, ratio]))
    print(label, cells, check, sep=" | ", flush=True)
    shown = f"{1000 * check.cpu:.0f}" if isinstance(check, Measured) else check
    return f"| {label} | {cells} | {shown} |"


def grow(largest: int, limit: float) -> list[tuple[str, int, int, Measured | str]]:
    """Measure how the time grows."""
    found = []
    for names, versions in GROWTH:
        if names > largest:
            continue
        graphs = {
            "easy": universe.easy(names, versions, 3, 1),
            "tight": universe.tight(names, versions, 3, 0.05, 1),
        }
        for kind, table in graphs.items():
            with tempfile.TemporaryDirectory() as name:
                universe.write_registry(table, Path(name))
                taken = locked(Path(name), limit, 1)
                found.append((kind, names, versions, taken))
                print(kind, names, versions, taken, flush=True)
    return found


def plot(points: list[tuple[str, int, int, Measured | str]]) -> bool:
    """Draw the growth; return whether matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for kind in ("easy", "tight"):
        drawn = [(n * v, m.cpu) for k, n, v, m in points if k == kind and isinstance(m, Measured)]
        axes.plot(*zip(*drawn, strict=True), marker="o", label=kind)
    axes.set(xscale="log", yscale="log", xlabel="releases", ylabel="process CPU seconds")
    axes.set_title("modpkg lock, whole process")
    axes.legend()
    figure.tight_layout()
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})
    return True


def main() -> None:
    """Measure, and write the page and the plot."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--largest", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=20)
    given = parser.parse_args()
    home = tempfile.TemporaryDirectory()
    os.environ["MODPKG_HOME"] = home.name
    # An installed modpkg has its bytecode; the first of each row's runs writes that of a checkout.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # no project has graphs like these: the budgets are far above what one needs, and below this
    limits = "".join(f"{key} = {10**9}\n" for key in ("names", "releases", "requirements"))
    limits += f'index-values = {10**9}\nindex-bytes = "9 GB"\nsolver-work = {10**9}\n'
    (Path(home.name) / "config.toml").write_text(f"[limits]\n{limits}")
    limit = given.limit
    head = "| stock resolvelib | nab-resolver | uv pip compile | peers' best ÷ ours | --check, ms |"
    lines = [
        "# The resolver",
        "",
        f"`python -m benchmarks.resolver`; {described()}; load at the start "
        f"{os.getloadavg()[0]:.1f}. Whole processes: wall seconds (process CPU seconds, peak "
        f"memory); limit {limit:.0f} s of CPU. {peers_named()}. `modpkg lock` from a folder, the "
        "fastest of three; uv from a simple index on loopback, its second run, no previous "
        "output. `--check` in CPU ms.",
        "",
        f"| names, versions, deps, tight, seed | modpkg lock {head}",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for shape in TIGHT:
        label = ", ".join(map(str, shape))
        lines += [row(label, universe.tight(*shape), limit)]
    for names, versions, deps, seed in EASY:
        label = f"easy: {names}, {versions}, {deps}, {seed}"
        lines.append(row(label, universe.easy(names, versions, deps, seed), limit))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")
    lines += ["", "## Other seeds", "", "`modpkg lock`, process CPU seconds, seeds from 1.", ""]
    lines += ["| names, versions, deps, tight | seeds | median | worst |", "|---|---:|---:|---:|"]
    lines += [
        spread(shape, given.seeds, limit)
        for shape in dict.fromkeys((*shape[:-1], 0) for shape in TIGHT[:-1])
    ]
    RESULTS.write_text("\n".join(lines) + "\n")
    points = grow(given.largest, 5 * limit)
    lines += ["", "## Growth", "", "3 dependencies; tight is 0.05.", ""]
    lines += ["| graph | names | versions | modpkg lock |", "|---|---:|---:|---:|"]
    lines += [f"| {kind} | {n} | {v} | {taken} |" for kind, n, v, taken in points]
    if plot(points):
        lines += ["", "![Time over releases](../../docs/resolver-growth.svg)"]
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())
    home.cleanup()


if __name__ == "__main__":
    main()
