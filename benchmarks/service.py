"""A service: a call of a pipeline that is kept, beside transformers'; thirty live adapters.

    python -m benchmarks.service BASE ADAPTER [--calls 15] [--tokens 32] [--adapters 30]

BASE is a directory as saved by transformers, ADAPTER one as saved by PEFT on it. Both are made
modules, published to a scratch registry and installed by modpkg's own commands; of ADAPTER as many
copies as asked for, each with other weights. Calls of the two alternate in one process. Writes
benchmarks/results/service.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import described

ROOT = Path(__file__).parents[1]
MESSAGES = [{"role": "user", "content": "Why was the old bridge over the river closed?"}]
MEGA = 1e6


def modpkg(*arguments: str | Path, cwd: Path) -> None:
    """Run a command."""
    command = [sys.executable, "-m", "modpkg", *map(str, arguments)]
    subprocess.run(command, check=True, cwd=cwd, stdout=subprocess.DEVNULL)


def publish(work: Path, base: Path, adapter: Path, count: int) -> list[str]:
    """Publish a base and ``count`` adapters on it; return the adapters' names."""
    import torch
    from safetensors.torch import load_file, save_file

    modpkg("import", "hf", base, "--name", "service-base", cwd=work)
    modpkg("build", "service-base", cwd=work)
    modpkg("publish", "service-base", cwd=work)
    names = [f"cust-{number:02}" for number in range(count)]
    for number, name in enumerate(names):
        copy = work / "trained" / name
        shutil.copytree(adapter, copy, ignore=shutil.ignore_patterns("modpkg.toml", "dist"))
        torch.manual_seed(number)
        tensors = load_file(copy / "adapter_model.safetensors")
        tensors = {key: 0.02 * torch.randn_like(value) for key, value in tensors.items()}
        save_file(tensors, copy / "adapter_model.safetensors", {"format": "pt"})
        modpkg("import", "peft", copy, "--name", name, "--base", "service-base>=1", cwd=work)
        modpkg("build", name, cwd=work)
        modpkg("publish", name, cwd=work)
    return names


def disk_of(*folders: Path) -> int:
    """Return the bytes that folders take on disk; a file with several links counts once."""
    seen: dict[tuple[int, int], int] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                status = path.stat()
                seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def alternated(ways: dict[str, Callable[[], Any]], calls: int) -> dict[str, list[float]]:
    """Return the seconds of each call of each way; the first calls are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for call in range(calls + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            if call:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def report(work: Path, base: Path, adapter: Path, options: argparse.Namespace) -> str:
    """Return the page of results."""
    names = publish(work, base, adapter, options.adapters)
    app = work / "app"
    app.mkdir()
    wanted = "".join(f'{name} = "*"\n' for name in ["service-base", *names])
    (app / "modpkg.toml").write_text(f'[app]\nname = "service"\n[dependencies]\n{wanted}')
    begun = time.perf_counter()
    modpkg("install", cwd=app)
    installing = time.perf_counter() - begun
    import torch
    import transformers

    import modpkg as library

    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    begun = time.perf_counter()
    live = library.pipeline(["service-base", *names], live=True, project=app)
    loading = time.perf_counter() - begun
    ours = library.pipeline("service-base", project=app)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    theirs = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    new = {"max_new_tokens": options.tokens}
    answer = theirs(MESSAGES, do_sample=False, **new)[0]["generated_text"][-1]["content"]
    same = ours(MESSAGES, temperature=0, **new).text == answer.strip()
    ways: dict[str, Callable[[], Any]] = {
        "transformers.pipeline": lambda: theirs(MESSAGES, do_sample=False, **new),
        "modpkg.pipeline": lambda: ours(MESSAGES, temperature=0, **new),
        "modpkg.pipeline, live, no adapter": lambda: live(
            MESSAGES, adapter="service-base", temperature=0, **new
        ),
        "modpkg.pipeline, live, one adapter": lambda: live(
            MESSAGES, adapter=names[0], temperature=0, **new
        ),
        "modpkg.run, which loads the model each time": lambda: library.run(
            "service-base", MESSAGES, project=app, temperature=0, **new
        ),
    }
    seconds = alternated(ways, options.calls)
    reference = statistics.median(seconds["transformers.pipeline"])
    lines = [
        "# A service: one call, and thirty live adapters",
        "",
        f"{described()}, transformers {version('transformers')}.",
        "",
        f"Base `{base.name}`, {options.tokens} new tokens by greedy decoding, "
        f"{options.threads} thread(s), median of {options.calls} calls that alternate in one "
        f"process; load average {os.getloadavg()[0]:.1f}. The two texts are "
        f"{'equal' if same else 'NOT EQUAL'}.",
        "",
        "| | one call, median (range) | of transformers' |",
        "|---|---|---|",
    ]
    for name, found in seconds.items():
        times = [1000 * second for second in found]
        middle = statistics.median(found)
        lines.append(
            f"| {name} | {1000 * middle:.0f} ({min(times):.0f} to {max(times):.0f}) ms "
            f"| {middle / reference:.2f} |"
        )
    home = Path(os.environ["MODPKG_HOME"])
    used = disk_of(home / "store", app / ".modpkg")
    weights = (base / "model.safetensors").stat().st_size
    each = sum((work / name / "adapter_model.safetensors").stat().st_size for name in names)
    lines += [
        "",
        f"{len(names)} adapters of `{adapter.name}`'s shape, installed in {installing:.1f} s and "
        f"loaded live in {loading:.2f} s; none is composed. On disk: {used / MEGA:.1f} MB in store "
        f"and environment, for a base of {weights / MEGA:.1f} MB and adapters of "
        f"{each / MEGA:.1f} MB: {used / (weights + each):.3f} of both together.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run, print and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--calls", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--adapters", type=int, default=30)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        os.environ |= {
            "MODPKG_HOME": str(work / "home"),
            "MODPKG_REGISTRY": str(work / "registry"),
            "PYTHONPATH": str(ROOT),
        }
        page = report(work, options.base.absolute(), options.adapter.absolute(), options)
    print(page)
    (Path(__file__).parent / "results" / "service.md").write_text(page)


if __name__ == "__main__":
    main()
