"""What updates of a model cost: bytes on the wire and on disk for a real history of releases.

usage: python -m benchmarks.history --work FOLDER [--base FOLDER]

The releases (history_weights.py) are trained once, which takes some minutes, and kept in the work
folder. Compared, in the same run, with whole files, content-defined chunks and git-lfs. Writes
benchmarks/results/history.md and the tables of docs/updates.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.counting import CountingServer
from benchmarks.history_peers import Chunks, GitLfs, WholeFiles, bytes_below, content
from benchmarks.machine import described
from modpkg.registry.reader import Registry

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "history.md"
PAGE = ROOT / "docs" / "updates.md"
BASE = "smollm2-135m"
FORK = "smollm2-135m-fork"
ADAPTER = "summarize-lora"


@dataclass(frozen=True)
class Step:
    """One release of the history."""

    key: str
    title: str
    module: str
    version: str
    asks: tuple[str, ...] = ()
    """Further requirements of an app, which select the version that the release is for."""


STEPS = (
    Step("first", "first release", BASE, "1.0.0"),
    Step("few", "5 % of the tensors fine-tuned", BASE, "1.1.0"),
    Step("lora", "a LoRA", ADAPTER, "1.2.0", (f'{BASE} = "==1.0.0"',)),
    Step("all", "every tensor fine-tuned", BASE, "1.2.0"),
    Step("merge", "the mean of 1.1.0 and 1.2.0", BASE, "1.3.0"),
    Step("fork", "a fork: the same under another name", FORK, "1.0.0"),
)


TRAINED = (
    ", learning rate {lr:g} (reached after a tenth of the steps), {steps} steps of {batch} texts, "
    "{tokens} tokens, seed {seed}; {tensors_changed} of {tensors} tensors and {values_changed:.1%} "
    "of all values changed"
)


@dataclass
class Column:
    """What one way of updating costs, step by step, in bytes."""

    title: str
    wire: list[int] = field(default_factory=list)
    disk: list[int] = field(default_factory=list)
    """Cumulative, after each step."""


class Modpkg:
    """modpkg's own commands: build, publish into a folder, install over HTTP with one store."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.registry = work / "registry"
        self.registry.mkdir(parents=True)
        self.server = CountingServer(self.registry)
        self.published = 0
        """Bytes of the registry: packs, files, records, index lines."""
        self.weights = 0
        """Bytes of packs that the last install transferred."""
        self.store = 0
        """Bytes of the user's store."""

    def add(self, step: Step, folder: Path) -> int:
        """Publish and install a release; return the bytes that the install transferred."""
        project = self.work / "projects" / f"{step.module}-{step.version}"
        project.mkdir(parents=True)
        for path in content(folder):
            shutil.copyfile(path, project / path.name)
        manifest = folder / "modpkg.toml"
        kind = "adapter" if step.module == ADAPTER else "base"
        (project / "modpkg.toml").write_text(
            manifest.read_text()
            if manifest.exists()
            else f'[module]\nname = "{step.module}"\nversion = "{step.version}"\nkind = "{kind}"\n'
            'license = "Apache-2.0"\nsummary = "A step of the history"\n'
        )
        against = ["--against", "1.0.0"] if kind == "adapter" else []
        self._run("build", project, *against, "--registry", self.registry)
        why = ("--allow-breaking", "a step of the history")  # versions are names of steps here
        self._run("publish", project, "--registry", self.registry, *why)
        self.published = bytes_below(self.registry)
        app = self.work / "apps" / f"{step.module}-{step.version}"
        app.mkdir(parents=True)
        asked = [f'{step.module} = "=={step.version}"', *step.asks]
        (app / "modpkg.toml").write_text(
            "\n".join(['[app]\nname = "app"\n\n[dependencies]', *asked]) + "\n"
        )
        self.server.sent.clear()
        self._run("install", "--registry", self.server.url, cwd=app)
        self.store = bytes_below(self.work / "home" / "store")
        registry = Registry(str(self.registry))
        packs = registry.record(registry.line(step.module, step.version)).packs
        self.weights = sum(
            count
            for path, count in self.server.sent.items()
            if f"sha256:{Path(path).name}" in packs
        )
        return self.server.sent.total()

    def _run(self, *arguments: str | Path, cwd: Path | None = None) -> None:
        environment = os.environ | {"MODPKG_HOME": str(self.work / "home")}
        environment.pop("MODPKG_REGISTRY", None)
        command = [sys.executable, "-m", "modpkg", *map(str, arguments)]
        subprocess.run(command, cwd=cwd or self.work, env=environment, check=True)


def measure(folders: dict[str, Path], work: Path) -> list[Column]:
    """Apply every step to every way of updating, in order."""
    shutil.rmtree(work, ignore_errors=True)
    whole, chunks, lfs = WholeFiles(), Chunks(), GitLfs(work / "git-lfs")
    modpkg = Modpkg(work / "modpkg")
    names = (
        "whole files",
        "64 KiB chunks",
        "chunks, zstd",
        "git-lfs",
        "modpkg",
        "weights",
        "registry",
    )
    columns = {name: Column(name) for name in names}
    try:
        for step in STEPS:
            print(f"{step.module} {step.version}", flush=True)
            folder = folders[step.key]
            moved = {
                "whole files": whole.add(step.module, folder),
                "64 KiB chunks": chunks.add(step.module, folder),
                "git-lfs": lfs.add(step.module, folder),
                "modpkg": modpkg.add(step, folder),
            }
            moved |= {"chunks, zstd": chunks.packed, "weights": modpkg.weights}
            kept = {
                "whole files": whole.disk,
                "64 KiB chunks": chunks.disk,
                "chunks, zstd": chunks.packed_disk,
                "git-lfs": lfs.disk,
                "modpkg": modpkg.store,
                "registry": modpkg.published,
            }
            for name, value in moved.items():
                columns[name].wire.append(value)
            for name, value in kept.items():
                columns[name].disk.append(value)
    finally:
        modpkg.server.close()
    return list(columns.values())


def megabytes(count: int) -> str:
    """Return bytes in MB (10^6), small counts to the kB."""
    return f"{count / 1e6:.1f}" if count >= 1e5 else f"{count / 1e6:.3f}"


def table(columns: list[Column], attribute: str, plain: list[int] | None) -> list[str]:
    """Return one table; with ``plain``, modpkg's bytes as a share of the release's own too."""
    shown = [column for column in columns if getattr(column, attribute)]
    titles = [
        {
            "modpkg": "**modpkg**",
            "weights": "of that, weights",
            "registry": "modpkg's registry",
        }.get(c.title, c.title)
        for c in shown
    ]
    if attribute == "disk":
        titles = [t.replace("**modpkg**", "**modpkg's store**") for t in titles]
    share = ["of a full release"] if plain else []
    lines = [
        "| " + " | ".join(["release", *titles, *share]) + " |",
        "|---|" + "---:|" * (len(titles) + len(share)),
    ]
    for row, step in enumerate(STEPS):
        cells = [megabytes(getattr(column, attribute)[row]) for column in shown]
        if plain:
            ours = next(column for column in shown if column.title == "modpkg")
            cells.append(f"{100 * ours.wire[row] / plain[0]:.2f} %")
        lines.append(
            "| " + " | ".join([f"`{step.module}` {step.version}: {step.title}", *cells]) + " |"
        )
    return lines


def training(folders: dict[str, Path]) -> list[str]:
    """Return how the releases were made, a line each."""
    lines = []
    for step in STEPS:
        path = folders[step.key] / "made.json"
        facts = json.loads(path.read_text()) if path.exists() else {"method": "as in examples/"}
        if "lr" in facts:
            facts["method"] += TRAINED.format_map(facts)
        if "held_out" in facts:
            facts["method"] += f"; loss on held-out texts {facts['held_out']:.2f}"
        lines.append(f"- `{step.module}` {step.version}: {facts['method']}.")
    return lines


def report(columns: list[Column], folders: dict[str, Path]) -> str:
    """Return the tables and the facts needed to judge them."""
    plain = [sum(file.stat().st_size for file in content(folders[step.key])) for step in STEPS]
    lfs = subprocess.run(["git-lfs", "version"], capture_output=True, text=True, check=True)
    version = lfs.stdout.split()[0].replace("/", " ")
    lines = [
        f"`python -m benchmarks.history --work FOLDER`; {described()}; {version}, "
        f"fastcdc {importlib.metadata.version('fastcdc')}, "
        f"zstandard {importlib.metadata.version('zstandard')}. MB are 10^6 bytes.",
        "",
        "On the wire, for a user who has every earlier release:",
        "",
        *table(columns, "wire", plain),
        "",
        "On disk, cumulative:",
        "",
        *table(columns, "disk", None),
        "",
        "The releases:",
        "",
        *training(folders),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Create the missing releases, measure, and write both pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the weights")
    parser.add_argument("--base", type=Path, default=ROOT / "build" / "examples" / BASE)
    arguments = parser.parse_args()
    from benchmarks.history_weights import make

    folders = make(arguments.base.absolute(), arguments.work.absolute())
    columns = measure(folders, arguments.work.absolute() / "measured")
    text = report(columns, folders)
    RESULTS.write_text("# What an update costs\n\n" + text)
    if PAGE.exists():
        marked = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.DOTALL)
        page = marked.sub(lambda found: found[1] + text + found[2], PAGE.read_text())
        PAGE.write_text(page)
    print(text)


if __name__ == "__main__":
    main()
