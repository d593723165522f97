"""Fetching a release over loopback HTTP: modpkg compared with curl and the hub's client.

    python -m benchmarks.transfer [--registry build/demo/registry] [--runs 7]

nginx (``apt-get install nginx-light``) serves the registry's folder. Every way takes turns in each
run, each in fresh processes with an empty store; files are in the page cache. Writes
benchmarks/results/transfer.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import described
from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.names import parse_requirement
from modpkg.core.records import ReleaseRecord
from modpkg.environment.install import apply_install
from modpkg.environment.plan import InstallRequest, plan_install
from modpkg.environment.project import Project
from modpkg.environment.workspace import RegistryOptions, Workspace
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import LockedModule
from modpkg.store.store import Store
from modpkg.transfer.fetch import fetch_all
from modpkg.transfer.plan import plan_transfer

ROOT = Path(__file__).parents[1]
COMMIT = "0" * 40
SLOW = "8m"
"""Rate per connection, in bytes a second, of the server whose fetch is killed."""


class Run(NamedTuple):
    """One run of one way."""

    seconds: float
    """Of the transfer alone where that is measurable, else of the processes."""
    wall: float
    cpu: float
    """Seconds of user and system time of the processes, without the server's."""
    memory: int
    """Peak resident set in bytes."""


@contextmanager
def nginx(folder: Path, root: Path) -> Iterator[tuple[str, str, Path]]:
    """Serve ``root``; yield the address, one that is slow, and the log of bytes sent."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    log, pid = folder / "sent.log", folder / "nginx.pid"
    servers = "".join(
        f"server {{ listen 127.0.0.1:{port}; root {root}; default_type application/octet-stream;"
        f" {limit}"
        f" location ~ ^/bench/model/resolve/[^/]+/(.*)$ {{ alias {folder}/files/$1;"
        f' add_header X-Repo-Commit "{COMMIT}"; }}'
        f" location /api/models/bench/model/tree {{ root {folder}; try_files /tree.json =404;"
        " default_type application/json; }"
        f" location /api/ {{ root {folder}; try_files /api.json =404;"
        " default_type application/json; } }\n"
        for port, limit in zip(ports, ("", f"limit_rate {SLOW};"), strict=True)
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {pid}; error_log {folder}/error.log; worker_processes 1;\n"
        "events { worker_connections 256; }\n"
        "http { sendfile on; tcp_nopush on; etag on;\n"
        "log_format sent '$body_bytes_sent $request_uri'; "
        f"access_log {log} sent;\n"
        f"client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; "
        f"fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;\n"
        f"{servers} }}\n"
    )
    server = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", ports[1]), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", log
    finally:
        server.terminate()
        server.wait()


def measured(command: list[str], **environment: str) -> tuple[Run, str]:
    """Run a command to its end and return its figures and its output."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | environment, cwd=tempfile.gettempdir()
    )
    assert process.stdout is not None
    out = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit(f"{command} failed")
    cpu = usage.ru_utime + usage.ru_stime
    return Run(wall, wall, cpu, usage.ru_maxrss * 1024), out


def by_curl(url: str, pack: str) -> Run:
    """One stream, hashed, not written to disk."""
    line = f"curl -s {url}/{blob_path(parse_digest(pack))} | openssl dgst -sha256"
    run, out = measured(["bash", "-c", line])
    assert pack[7:] in out
    return run


def by_modpkg(url: str, module: str, work: Path) -> Run:
    """All of a release into an empty store: planned, fetched, hashed, on disk."""
    home = Path(tempfile.mkdtemp(dir=work))
    command = [sys.executable, "-m", "benchmarks.transfer", "--child", url, module, str(home)]
    run, out = measured(command, PYTHONPATH=str(ROOT))
    shutil.rmtree(home)
    return run._replace(seconds=float(out))


def child(url: str, module: str, home: Path) -> None:
    """Fetch a release once and print the seconds of planning and fetching."""
    store = Store(home / "store")
    registry = Registry(url, cache=store.blobs)
    locked = lock_of(registry, module)
    begun = time.perf_counter()
    plan = plan_transfer([locked], {module: registry}, store)
    fetch_all(plan, [locked], store)
    print(time.perf_counter() - begun)


def lock_of(registry: Registry, module: str) -> LockedModule:
    line = registry.index(module)[0]
    return LockedModule(
        name=line.name,
        version=line.version,
        kind=line.kind,
        registry=registry.name,
        release=line.release,
    )


_HUB = """
import sys, time
from huggingface_hub import snapshot_download
from huggingface_hub.utils import disable_progress_bars
disable_progress_bars()
begun = time.perf_counter()
snapshot_download("bench/model", cache_dir=sys.argv[1])
print(time.perf_counter() - begun)
"""


def by_hub(url: str, work: Path) -> Run:
    """The same bytes, as the hub's client fetches them: written to disk, not hashed."""
    home = Path(tempfile.mkdtemp(dir=work))
    run, out = measured(
        [sys.executable, "-c", _HUB, str(home / "cache")],
        HF_ENDPOINT=url,
        HF_HOME=str(home),
        HF_HUB_OFFLINE="0",
        HF_HUB_DISABLE_TELEMETRY="1",
    )
    size = sum(path.stat().st_size for path in (home / "cache").rglob("blobs/*"))
    assert size > 1_000_000, size
    shutil.rmtree(home)
    return run._replace(seconds=float(out))


def lay_out_hub(folder: Path, registry: Path, record: ReleaseRecord) -> None:
    """Lay the release's files out as the hub's API describes them."""
    (folder / "files").mkdir()
    names = {"model.safetensors": next(iter(record.packs))}
    names |= {path: entry.digest for path, entry in record.files.items() if "/" not in path}
    for name, digest in names.items():
        (folder / "files" / name).symlink_to(registry / blob_path(parse_digest(digest)))
    siblings = [{"rfilename": name} for name in names]
    document = {"id": "bench/model", "modelId": "bench/model", "sha": COMMIT, "siblings": siblings}
    document |= {"tags": [], "downloads": 0, "private": False}
    (folder / "api.json").write_text(json.dumps(document))
    tree = []
    for name, digest in names.items():
        size = (folder / "files" / name).stat().st_size
        lfs = {"oid": digest[7:], "size": size, "pointerSize": 134}
        tree.append({"type": "file", "path": name, "size": size, "oid": digest[7:], "lfs": lfs})
    (folder / "tree.json").write_text(json.dumps(tree))


def sent(log: Path) -> int:
    """Return the bytes of blobs that the server has sent, once it has logged all of them."""
    before = -1
    while (size := log.stat().st_size) != before:
        before = size
        time.sleep(0.5)
    lines = [line.split() for line in log.read_text().splitlines()]
    return sum(int(count) for count, path in lines if "/blobs/" in path)


def resumed(slow: str, fast: str, log: Path, module: str, work: Path) -> tuple[int, int, int]:
    """Kill a fetch halfway; return total bytes, bytes already fetched, bytes fetched again."""
    home = Path(tempfile.mkdtemp(dir=work))
    store = Store(home / "store")
    locked = lock_of(Registry(slow), module)

    def missing() -> int:
        fresh = Store(home / "store")
        registry = Registry(fast, cache=fresh.blobs)
        return plan_transfer([locked], {module: registry}, fresh).missing

    total = missing()
    command = [sys.executable, "-m", "benchmarks.transfer", "--child", slow, module, str(home)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd="/")
    while missing() > total / 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = missing()
    before = sent(log)
    measured([*command[:4], fast, *command[5:]], PYTHONPATH=str(ROOT))
    came = sent(log) - before
    assert not plan_transfer([locked], {module: Registry(fast)}, store).needed
    shutil.rmtree(home)
    return total, total - left, came - left


def environments(registry: Path, module: str, work: Path, count: int = 100) -> tuple[int, int]:
    """Return the disk space of one environment, store included, and of ``count``."""
    home = Path(tempfile.mkdtemp(dir=work))
    store = Store(home / "store")
    taken = []
    for number in range(count):
        folder = home / f"app-{number}"
        folder.mkdir()
        (folder / "modpkg.toml").write_text('[app]\nname = "app"\n')
        options = RegistryOptions(str(registry))
        workspace = Workspace(Project(folder / "modpkg.toml"), options=options, store=store)
        request = InstallRequest(add=[parse_requirement(module)])
        with workspace.environment.exclusive(), store.lock():
            apply_install(plan_install(workspace, request))
        if number in (0, count - 1):
            disk = subprocess.run(["du", "-sB1", home], capture_output=True, text=True, check=True)
            taken.append(int(disk.stdout.split()[0]))
    shutil.rmtree(home)
    return taken[0], taken[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", type=Path, default=ROOT / "build/demo/registry")
    parser.add_argument("--module", default="smollm2-135m")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/transfer.md")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], options.child[1], Path(options.child[2]))
        return
    if not options.registry.is_dir():
        raise SystemExit(f"{options.registry} does not exist; run `make demo` first")
    reader = Registry(str(options.registry.absolute()))
    record = reader.record(reader.index(options.module)[0])
    pack, size = next(iter(record.packs.items()))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir="/tmp") as name, memory_folder() as quick:
        folder = Path(name)
        folder.chmod(0o755)
        lay_out_hub(folder, options.registry.absolute(), record)
        with nginx(folder, options.registry.absolute()) as (fast, slow, log):
            ways: dict[str, Callable[[], Run]] = {
                "curl \\| openssl dgst (nothing written)": lambda: by_curl(fast, pack),
                "modpkg, store in memory": lambda: by_modpkg(fast, options.module, quick),
                "modpkg, store on disk": lambda: by_modpkg(fast, options.module, folder),
                "snapshot_download, cache in memory": lambda: by_hub(fast, quick),
                "snapshot_download, cache on disk": lambda: by_hub(fast, folder),
            }
            runs: dict[str, list[Run]] = {way: [] for way in ways}
            for _ in range(options.runs):
                for way, act in ways.items():
                    runs[way].append(act())
            resume = resumed(slow, fast, log, options.module, folder)
        shared = environments(options.registry.absolute(), options.module, folder)
    options.out.write_text(page(options, record, size, load, runs, resume, shared))
    print(options.out.read_text())


@contextmanager
def memory_folder() -> Iterator[Path]:
    """Yield a folder on a file system in memory: the disk does not affect the rate."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def page(
    options: argparse.Namespace,
    record: ReleaseRecord,
    size: int,
    load: float,
    runs: dict[str, list[Run]],
    resume: tuple[int, int, int],
    shared: tuple[int, int],
) -> str:
    """Return the results as Markdown."""
    rates = {way: [size / run.seconds / 1e6 for run in of] for way, of in runs.items()}
    middle = {way: statistics.median(of) for way, of in rates.items()}
    curl, memory, disk, hub_memory, hub_disk = middle
    nginx_version = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr
    nginx_version = nginx_version.strip().removeprefix("nginx version: ")
    curl_version = subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout
    rows = []
    for way, of in runs.items():
        of_rates = rates[way]
        rows.append(
            f"| {way} | {middle[way]:.0f} ({min(of_rates):.0f} to {max(of_rates):.0f}) MB/s | "
            f"{middle[way] / middle[curl]:.2f} | {statistics.median(r.wall for r in of):.2f} s | "
            f"{statistics.median(r.cpu for r in of):.2f} s | "
            f"{statistics.median(r.memory for r in of) / 1e6:.0f} MB |"
        )
    total, here, again = resume
    return f"""# Fetching a release over loopback HTTP

{described()}, {nginx_version}, {" ".join(curl_version.split()[:2])}, \
huggingface_hub {version("huggingface_hub")}, obstore {version("obstore")}.

`{record.name}` {record.version}: one pack of {size / 1e6:.0f} MB, {len(record.tensors)} tensors, \
{len(record.files)} files. Median (range) of {options.runs} runs in which all ways \
take turns, load average {load:.1f} at the start. nginx runs on the same cores as the client, and \
everything it sends is in the page cache. The rate is that of the transfer, without imports; wall \
time, CPU and peak resident set (mapped files count) are those of the client's whole processes.

| | rate | of curl's | wall | CPU | memory |
|---|---|---|---|---|---|
{chr(10).join(rows)}

curl writes nothing; modpkg writes every byte, waits for the disk, and hashes every \
tensor; the hub's client writes and does not hash. modpkg to the hub's client: \
{middle[memory] / middle[hub_memory]:.1f}× in memory, {middle[disk] / middle[hub_disk]:.1f}× on \
disk.

Killed (SIGKILL) halfway and started again: of {total / 1e6:.1f} MB, {here / 1e6:.1f} MB were \
already fetched; {again / 1e6:.2f} MB of these were fetched again, {100 * again / here:.2f} %.

One environment with `{record.name}` takes {shared[0] / 1e6:.1f} MB of disk, \
including the store; 100 take {shared[1] / 1e6:.1f} MB.
"""


if __name__ == "__main__":
    main()
