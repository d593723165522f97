"""From weights on disk to a model that runs: modpkg compared with transformers and PEFT.

    python benchmarks/load.py BASE ADAPTER [ADAPTER ...] [--runs 7] [--threads N]
    python benchmarks/load.py --probe [--shape s] [--runs 3] [--threads N]

BASE is a directory as saved by transformers, each ADAPTER one as saved by PEFT. Every figure is
the median over fresh processes that have imported everything before the clock starts; files are
in the page cache for all variants. Writes benchmarks/results/load.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import described  # noqa: E402

WAYS = {
    "modpkg, already composed": "load",
    "modpkg, composing": "compose",
    "transformers + PEFT, merging": "peft",
}
TEXT_IDS = [[1, 2, 3, 4, 5, 6, 7, 8]]


def by_modpkg(base: Path, adapter: Path, store: Path, threads: int, clock: Any) -> Any:
    """Compose (or find the composition in the store) and load."""
    from benchmarks.inputs import installed_module, lay_out
    from modpkg.compose.executor import compose
    from modpkg.compose.plan import plan
    from modpkg.core.names import ModuleName
    from modpkg.manifest.schema import Compose, Step
    from modpkg.runtime.load import load_model

    # What an install already knows: digests of the content of the store.
    modules = {
        "base": installed_module(base, "base", "base"),
        "adapter": installed_module(adapter, "adapter", "adapter"),
    }
    recipe = Compose(
        base=ModuleName("base"), steps=(Step(op="lora", module=ModuleName("adapter")),)
    )
    folder = store / "model"
    clock()
    if not (folder / "model.json").exists():
        composition = plan("model", "1.0", recipe, modules)
        lay_out(compose(composition, store, threads=threads), folder)
    return load_model(folder, Path("/"))


def by_peft(base: Path, adapter: Path, clock: Any) -> Any:
    """Load the base, load the adapter onto it, merge."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    clock()
    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def child(way: str, base: Path, adapter: Path, store: Path, threads: int) -> None:
    """Load once and print the figures as JSON."""
    import peft  # noqa: F401
    import torch
    import transformers

    import modpkg.compose.executor
    import modpkg.runtime.load  # noqa: F401

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = json.loads((base / "config.json").read_text())
    getattr(transformers, config["architectures"][0])
    begun: list[float] = []

    def clock() -> None:
        begun[:] = [time.perf_counter(), peak()]

    if way == "peft":
        model = by_peft(base, adapter, clock)
    else:
        model = by_modpkg(base, adapter, store, threads, clock)
    loaded = time.perf_counter()
    faults = faulted()
    with torch.no_grad():
        logits = model(torch.tensor(TEXT_IDS)).logits
        ran, faults = time.perf_counter(), faulted() - faults
        model(torch.tensor(TEXT_IDS))
        again = time.perf_counter()
    figures = {
        "seconds": loaded - begun[0],
        "forward": ran - loaded,
        "second": again - ran,
        "faults": faults,
        "imports": begun[1],
        "peak": peak(),
        "logits": logits[0, -1, :64].float().tolist(),
    }
    print(json.dumps(figures))


def peak() -> float:
    """Return this process's peak resident memory so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def faulted() -> int:
    """Return how often this process waited for a page of memory so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


def measure(way: str, base: Path, adapter: Path, runs: int, threads: int) -> list[dict[str, Any]]:
    """Return the figures of each run."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store"
        for run in range(runs + 1):
            if way == "compose":
                shutil.rmtree(store, ignore_errors=True)
            command = [sys.executable, __file__, "--child", way, str(base), str(adapter)]
            command += ["--store", str(store), "--threads", str(threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            if run:  # the first warms the page cache, and composes for the way "load"
                found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def report(base: Path, adapters: list[Path], runs: int, threads: int) -> str:
    """Return the page of results."""
    lines = [
        "# From weights on disk to a model that runs",
        "",
        f"{described()}, transformers {version('transformers')}, peft {version('peft')}.",
        "",
    ]
    lines += [
        f"Base `{base.name}`. Median of {runs} fresh processes with {threads} thread(s) each, "
        f"load average {os.getloadavg()[0]:.1f} at the start. Everything is imported and all files "
        "are in the page cache before the clock starts. Memory is the peak resident set beyond "
        "that of the imports (mapped files count). The first forward pass is separate, because "
        "mapped weights are read then, by page faults; in the last column it counts. "
        "Composing hashes what it writes and waits for the disk, "
        "once per composition; merging does neither.",
        "",
    ]
    for adapter in adapters:
        config = json.loads((adapter / "adapter_config.json").read_text())
        targets = ", ".join(sorted(config["target_modules"]))
        lines += [f"## Adapter `{adapter.name}`: rank {config['r']} on {targets}", ""]
        lines += [
            "| | load, median (range) | first forward | its page faults | second forward | memory "
            "| load faster | with the first forward |",
            "|---|---|---|---|---|---|---|---|",
        ]
        # In the order of WAYS.
        results = {name: measure(way, base, adapter, runs, threads) for name, way in WAYS.items()}
        theirs = results[list(WAYS)[-1]]
        slowest = statistics.median(r["seconds"] for r in theirs)
        last = statistics.median(r["seconds"] + r["forward"] for r in theirs)
        for name, found in results.items():
            times = [1000 * r["seconds"] for r in found]
            seconds = statistics.median(times) / 1000
            forward, second, faults = (
                statistics.median(r[key] for r in found) for key in ("forward", "second", "faults")
            )
            ready = statistics.median(r["seconds"] + r["forward"] for r in found)
            memory = statistics.median(r["peak"] - r["imports"] for r in found)
            lines.append(
                f"| {name} | {seconds * 1000:.0f} ({min(times):.0f} to {max(times):.0f}) ms "
                f"| {forward * 1000:.0f} ms | {faults:.0f} | {second * 1000:.0f} ms "
                f"| {memory:.0f} MB | {slowest / seconds:.1f}× | {last / ready:.1f}× |"
            )
        mine, _, others = (found[0]["logits"] for found in results.values())
        far = max(abs(a - b) for a, b in zip(mine, others, strict=True))
        lines += [
            "",
            f"Greatest difference between the logits of the two: {far:.3g} "
            "(PEFT rounds the change before it adds it; modpkg rounds once).",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    """Run, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("base", type=Path, nargs="?")
    parser.add_argument("adapters", type=Path, nargs="*")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--child", choices=list(WAYS.values()), help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--probe", action="store_true", help="where a first pass spends its time")
    parser.add_argument("--shape", default="s", help="of the probe's model; see large_models")
    options = parser.parse_args()
    if options.probe:
        from benchmarks.first_forward import probe

        print(probe(options.shape, options.threads, min(options.runs, 3)))
        return
    if options.base is None or not options.adapters:
        parser.error("BASE and an ADAPTER are needed")
    if options.child:
        child(options.child, options.base, options.adapters[0], options.store, options.threads)
        return
    page = report(options.base, options.adapters, options.runs, options.threads)
    print(page)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "load.md").write_text(page)


if __name__ == "__main__":
    main()
