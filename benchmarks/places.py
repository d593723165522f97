"""Publishing to a folder and to a store of objects: faults, kills, and rates beside other tools.

usage: python -m benchmarks.places faults [--count N] [--rows FILE]
       python -m benchmarks.places kills [--count N] [--rows FILE]
       python -m benchmarks.places rates --endpoint URL [--megabytes N] [--rows FILE]
       python -m benchmarks.places page --rows FILE
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from safetensors.numpy import save_file

from benchmarks.machine import described
from modpkg.core.errors import ModpkgError
from modpkg.manifest.read import read_manifest
from modpkg.registry.known import known_tensors
from modpkg.registry.opening import open_place
from modpkg.registry.place import Place, registry_at
from modpkg.registry.reader import Registry
from modpkg.registry.relatives import Relatives
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import build
from registry_spec.check import check
from tests.changing import numbers, write
from tests.faults import writes
from tests.modules import write_module
from tests.registry.proxy import Fault, FaultyProxy, Passed

RESULTS = Path(__file__).parent / "results" / "places.md"
NAMES = 8
"""Names of modules: each is published to by several at once."""
BUCKET = "models"
FAULTS: dict[str, Callable[[random.Random], Fault]] = {
    "the connection closes before the request": lambda rng: Fault(drop=True),
    "the answer is lost after the request was done": lambda rng: Fault(lose=True),
    "the answer breaks off": lambda rng: Fault(cut=rng.randrange(40)),
    "500 in place of an answer": lambda rng: Fault(status=500),
    "503 in place of an answer": lambda rng: Fault(status=503),
    "429 with Retry-After": lambda rng: Fault(status=429, headers={"Retry-After": "1"}),
    "500 after the request was done": lambda rng: Fault(done_then=500),
    "503 after the request was done": lambda rng: Fault(done_then=503),
    "late by 0.3 seconds": lambda rng: Fault(seconds=0.3),
}


def main() -> None:
    """Do one part, and keep its rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=["faults", "kills", "rates", "page"])
    parser.add_argument("--count", type=int, default=5000, help="faults, or kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--endpoint", help="of a server of S3 with the bucket 'models'")
    parser.add_argument("--server", default="moto", help="its name, for the page")
    parser.add_argument("--megabytes", type=int, default=270)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=Path, default=Path("places.jsonl"))
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="modpkg-places-"))
    try:
        if options.part == "page":
            RESULTS.write_text(page([json.loads(row) for row in options.rows.open()]))
            return
        part = {"faults": faults, "kills": kills, "rates": rates}[options.part]
        row = {"part": options.part, "machine": described(), **part(options, work)}
    finally:
        shutil.rmtree(work)
    with options.rows.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


# Releases ----------------------------------------------------------------------------------


def releases(root: Path, count: int) -> list[Path]:
    """Build bases of a few names, each version with a tensor of its own; return their trees."""
    trees = []
    for number in range(count):
        name, version = f"m{number % NAMES}", f"1.{number // NAMES}"
        shared, own = (
            numbers("a", seed=number % NAMES, count=64),
            numbers("b", seed=number, count=8),
        )
        folder = write(root / f"{number}", {**shared, **own}, name, version)
        manifest = read_manifest(folder / "modpkg.toml")
        assert manifest.module is not None
        build(manifest, manifest.module, folder / "dist")
        trees.append(folder / "dist")
    return trees


def publish(tree: Path, place: Place) -> tuple[str, str]:
    """Publish a tree; return the name and version."""
    built = Registry(str(tree))
    (name,) = built.names() or ()
    (line,) = built.index(name)
    RegistryWriter(place, "models").publish(built, line)
    return line.name, line.version


def missing(done: list[tuple[str, str]], address: str) -> int:
    """Return how many releases that were published are not there, whole, exactly once."""
    reader = registry_at(open_place(address))
    lost = 0
    for name, version in done:
        lines = [line for line in reader.index(name) if line.version == version]
        lost += len(lines) != 1 or not reader.record(lines[0]).files
    return lost


# Faults of a store -------------------------------------------------------------------------


@contextmanager
def moto() -> Iterator[str]:
    """Give the address of a server of S3, a process."""
    code = (
        "import logging; logging.getLogger('werkzeug').setLevel(logging.ERROR)\n"
        "from moto.server import ThreadedMotoServer\n"
        "server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)\n"
        "server.start(); print(*server.get_host_and_port(), flush=True)\n"
        "import sys; sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        host, port = server.stdout.readline().split()
        try:
            yield f"http://{host}:{port}"
        finally:
            server.kill()


def use(endpoint: str) -> None:
    """Lead this process to a server of S3."""
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    for name, value in {**keys, "AWS_REGION": "us-east-1"}.items():
        os.environ.setdefault(name, value)
    os.environ["AWS_ENDPOINT_URL"] = endpoint


def faults(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Publish from many threads through a proxy that fails, until enough faults were met."""
    met: Counter[str] = Counter()
    asked, retried, began = 0, 0, time.monotonic()
    done: list[tuple[str, str]] = []
    trees = releases(work, options.count // 4)
    jobs: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for tree in trees:
        jobs.put(tree)
    lock = threading.Lock()
    with moto() as server:
        urlopen(Request(f"{server}/{BUCKET}", method="PUT")).close()
        with FaultyProxy(server) as proxy:
            use(proxy.url)
            address = f"s3://{BUCKET}/registry"
            done.append(publish(jobs.get(), open_place(address)))  # msgspec is slow to meet a type
            rng = random.Random(options.seed)

            def fault(passed: Passed) -> Fault:
                nonlocal asked
                with lock:
                    asked += 1
                    if sum(met.values()) >= options.count or "X-Amz-Signature" in passed.path:
                        return Fault()
                    if rng.random() > 0.25:
                        return Fault()
                    kind = rng.choice([*FAULTS])
                    met[kind] += 1
                    return FAULTS[kind](rng)

            proxy.fault = fault

            def work_on() -> None:
                nonlocal retried
                while sum(met.values()) < options.count:
                    try:
                        tree = jobs.get_nowait()
                    except queue.Empty:
                        return
                    while True:
                        try:
                            one = publish(tree, open_place(address))
                            break
                        except ModpkgError:
                            retried += 1
                    done.append(one)
                    proxy.seen.clear()

            threads = [threading.Thread(target=work_on) for _ in range(options.threads)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            proxy.fault = lambda passed: Fault()
            report = check(address)
            lost = missing(done, address)
    return {
        "kinds": dict(met),
        "faults": sum(met.values()),
        "requests": asked,
        "releases": len(done),
        "again": retried,
        "lost": lost,
        "problems": [str(problem) for problem in report.problems],
        "found": report.releases,
        "minutes": (time.monotonic() - began) / 60,
    }


# Kills -------------------------------------------------------------------------------------


def kills(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Kill publishers to a folder, eight at once, each before one of its changes of the disk."""
    rng, began = random.Random(options.seed), time.monotonic()
    registry = work / "registry"
    place = open_place(str(registry))
    place.prepare("models")
    trees = releases(work / "trees", options.count // 2)
    killed = finished = 0
    done: list[tuple[str, str]] = []
    waiting = [*trees]
    while killed < options.count and waiting:
        group = waiting[:8]
        children = {fork(tree, registry, rng.randrange(1, 30)): tree for tree in group}
        for child, tree in children.items():
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                killed += 1
                continue
            assert os.waitstatus_to_exitcode(status) == 0, tree
            finished += 1
            waiting.remove(tree)
            built = Registry(str(tree))
            (name,) = built.names() or ()
            done.append((name, built.index(name)[0].version))
    report = check(str(registry))
    return {
        "kills": killed,
        "finished": finished,
        "lost": missing(done, str(registry)),
        "problems": [str(problem) for problem in report.problems],
        "found": report.releases,
        "minutes": (time.monotonic() - began) / 60,
    }


def fork(tree: Path, registry: Path, point: int) -> int:
    """Publish a tree in another process, which is killed before its change of this number."""
    if child := os.fork():
        return child
    changes = 0
    folder = str(registry)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        if (event == "open" or event.startswith("os.")) and writes(event, arguments, folder):
            changes += 1
            if changes == point:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(hook)
        publish(tree, open_place(str(registry)))
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


# Rates -------------------------------------------------------------------------------------


def rates(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Send new packs, beside what other tools take for the same files; then a few tensors more."""
    use(options.endpoint)
    count = options.megabytes * 10**6 // 2 // 100
    tensors = {f"layers.{number}": values(number, count) for number in range(100)}
    times: dict[str, list[float]] = {}
    moved = {}
    for number in range(options.rounds):
        address = f"s3://{BUCKET}/{random.randrange(10**9)}"
        place = open_place(address)
        place.prepare("models")
        folder = write_large(work / f"{number}", tensors)
        tree = folder / "dist"
        build_for(folder, place)
        packs = [path for path in tree.glob("blobs/*/*/*") if path.stat().st_size > 10**6]
        size = sum(path.stat().st_size for path in packs)
        for tool in ("modpkg", "modpkg, hashing all", "s5cmd", "rclone"):
            if tool == "modpkg, hashing all":
                place = open_place(address + "-again")
                place.prepare("models")
                (tree / ".stamps.json").unlink()
            began = time.monotonic()
            if tool.startswith("modpkg"):
                publish(tree, place)
            else:
                subprocess.run(peer(tool, packs, options.endpoint), check=True, capture_output=True)
            times.setdefault(tool, []).append(size / 1e6 / (time.monotonic() - began))
        if not number:
            moved = changed(work, tensors, address, size)
        shutil.rmtree(folder)
    return {
        "server": options.server,
        "megabytes": size / 1e6,
        "rounds": options.rounds,
        "rates": {tool: statistics.median(values) for tool, values in times.items()},
        **moved,
    }


def values(seed: int, count: int) -> np.ndarray[Any, Any]:
    """Return numbers as trained ones are."""
    return np.random.default_rng(seed).normal(0, 0.02, count).astype("<f2")


def write_large(folder: Path, tensors: dict[str, Any], version: str = "1.0") -> Path:
    """Write the project of a base."""
    files = {"config.json": b'{"model_type": "tiny"}'}
    write_module(folder, "base", version, "base", files=files)
    save_file(tensors, folder / "model.safetensors")
    return folder


def changed(work: Path, tensors: dict[str, Any], address: str, size: int) -> dict[str, float]:
    """Publish a version in which 5 of the 100 tensors are new; return what was sent."""
    count = len(tensors["layers.0"])
    fresh = {f"layers.{number}": values(1000 + number, count) for number in range(0, 100, 20)}
    folder = write_large(work / "changed", tensors | fresh, "1.1")
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        before = os.environ["AWS_ENDPOINT_URL"]
        use(proxy.url)
        place = open_place(address)
        build_for(folder, place)
        asked = proxy.sent("PUT")
        publish(folder / "dist", place)
        sent = proxy.sent("PUT") - asked
        use(before)
    return {"changed": sent / size}


def build_for(folder: Path, place: Place) -> None:
    """Build a module for a place."""
    manifest = read_manifest(folder / "modpkg.toml")
    module = manifest.module
    assert module is not None
    known = known_tensors(place, Relatives(module.name, module.version))
    build(manifest, module, folder / "dist", known=known)


def peer(tool: str, packs: list[Path], endpoint: str) -> list[str]:
    """Return a command that sends the same files."""
    target = f"{BUCKET}/{tool}-{random.randrange(10**9)}/"
    folder = str(packs[0].parents[1])
    if tool == "s5cmd":
        return ["s5cmd", "--endpoint-url", endpoint, "cp", f"{folder}/", f"s3://{target}"]
    keys = [
        f"--s3-access-key-id={os.environ['AWS_ACCESS_KEY_ID']}",
        f"--s3-secret-access-key={os.environ['AWS_SECRET_ACCESS_KEY']}",
    ]
    more = ["--s3-provider=Other", f"--s3-endpoint={endpoint}", "--s3-no-check-bucket"]
    return ["rclone", "copy", *keys, *more, folder, f":s3:{target}"]


# The page ----------------------------------------------------------------------------------


def page(rows: list[dict[str, Any]]) -> str:
    """Return the page of all rows."""
    sought: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        sought.setdefault(row["part"], []).append(row)
    text = [f"# Publishing\n\n`python -m benchmarks.places`. {rows[-1]['machine']}\n"]
    if found := sought.get("faults"):
        kinds: Counter[str] = Counter()
        for row in found:
            kinds.update(row["kinds"])
        total = {
            key: sum(row[key] for row in found)
            for key in ("faults", "requests", "releases", "again", "lost")
        }
        problems = sum(len(row["problems"]) for row in found)
        text.append(
            "## Faults of a store\n\n16 threads publish releases of 8 names to one registry in "
            "moto, through a proxy that\nlets a quarter of the requests fail. At the end, each "
            "release is looked for, and\n`registry_spec` checks every byte of the registry.\n\n"
            "| fault | met |\n|---|--:|\n"
            + "".join(f"| {kind} | {count:,} |\n" for kind, count in sorted(kinds.items()))
            + f"| all | {kinds.total():,} |\n\n"
            f"{total['requests']:,} requests, {total['releases']:,} releases. How often `publish` "
            f"gave up and was run again:\n{total['again']}. Releases lost: {total['lost']}. "
            f"Problems of the registries: {problems}. (One registry for each\n1,500 faults.)\n"
        )
    if found := sought.get("kills"):
        killed, finished = (sum(row[key] for row in found) for key in ("kills", "finished"))
        lost, problems = sum(row["lost"] for row in found), sum(len(r["problems"]) for r in found)
        text.append(
            "## Kills at a folder\n\nEight processes at a time publish releases of 8 names to "
            "one folder, and are killed\n(SIGKILL) before a random one of their changes of the "
            f"disk.\n\n{killed:,} were killed, {finished:,} finished. Releases lost: {lost}. "
            f"Problems of the registries: {problems}.\n"
        )
    if found := sought.get("rates"):
        lines = [
            f"| {row['server']} | {row['megabytes']:.0f} | {tool} | {rate:.0f} |\n"
            for row in found
            for tool, rate in row["rates"].items()
        ]
        shares = ", ".join(f"{row['changed']:.1%}" for row in found)
        text.append(
            "## Rates\n\nNew packs of one release, hashed on the way, beside tools that copy the "
            "same files to the same\nserver on this machine, which other work kept busy; medians, "
            'each tool once per round. "hashing\nall" is without the stamps of the build, so that '
            "the release is verified before it is\nsent.\n\n"
            "| server | MB | tool | MB/s |\n|---|--:|---|--:|\n"
            + "".join(lines)
            + f"\nA version in which 5 of 100 tensors are new sends {shares} of the bytes of the "
            "first one.\n"
        )
    return "\n".join(text)


if __name__ == "__main__":
    main()
