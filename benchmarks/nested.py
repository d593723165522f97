"""A merge of a merge of a model with a LoRA: one install beside composing step by step.

    python -m benchmarks.nested --registry FOLDER [--folder DIR]

Needs a registry with smollm2-135m and summarize-lora, as `examples/build_registry.py` makes it, and
no network. Each figure is of a whole process, imports included: wall time, peak resident memory,
and the most bytes that there were at a time in the folder of results, scratch files included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[1]
BASE, LORA = "smollm2-135m", "summarize-lora"
_DENSE = '{{ op = "dense", module = "{}", scale = {} }}'
RECIPES = {
    "first": (
        f'base = "{BASE}"\nsteps = [{{ op = "lora", module = "{LORA}" }}]',
        (BASE, LORA),
    ),
    "second": (
        f'base = "first"\nmethod = "ties-mergekit"\nparameters = {{ density = 0.5 }}\n'
        f"steps = [{_DENSE.format('tuned', 0.6)}, {_DENSE.format(BASE, 0.4)}]",
        ("first", "tuned", BASE),
    ),
    "third": (
        f'base = "{BASE}"\nmethod = "task-arithmetic"\n'
        f"steps = [{_DENSE.format('second', 0.7)}, {_DENSE.format('first', 0.3)}]",
        (BASE, "second", "first"),
    ),
}


class Figures(NamedTuple):
    """What a command took."""

    seconds: float
    memory: int
    disk: int


def run(home: Path, *arguments: str | Path, cwd: Path | None = None) -> Figures:
    """Run a command with its own home, and measure it."""
    environment = {**os.environ, "MODPKG_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "modpkg", *map(str, arguments)]
    begun = time.monotonic()
    memory = disk = 0
    with subprocess.Popen(command, env=environment, cwd=cwd) as process:
        while process.poll() is None:
            disk = max(disk, size_of(home / "store" / "composed"))
            memory = max(memory, peak_memory(process.pid))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return Figures(time.monotonic() - begun, memory, disk)


def peak_memory(process: int) -> int:
    """Return the most bytes that a running process had resident; 0 if it has just ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    peaks = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(peaks[0].split()[1]) * 1024 if peaks else 0


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder that may change meanwhile."""
    return sum(_size(path) for path in folder.rglob("*"))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size if path.is_file() else 0
    except FileNotFoundError:  # it was removed meanwhile
        return 0


def publish(registry: Path, folder: Path, home: Path) -> None:
    run(home, "build", folder)
    run(home, "publish", folder, "--registry", registry)


def write(folder: Path, name: str, kind: str, requires: tuple[str, ...], more: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    needs = "".join(f'{each} = "*"\n' for each in requires)
    (folder / "modpkg.toml").write_text(
        f'[module]\nname = "{name}"\nversion = "1.0"\nkind = "{kind}"\nlicense = "Apache-2.0"\n'
        f"[dependencies]\n{needs}{more}"
    )
    return folder


def app(folder: Path, registry: Path, *models: str, more: str = "") -> Path:
    folder.mkdir(parents=True)
    needs = "".join(f'{each} = "*"\n' for each in models)
    (folder / "modpkg.toml").write_text(
        f'[app]\nname = "app"\n[dependencies]\n{needs}{more}[registries]\ndefault = "{registry}"\n'
    )
    return folder


def result(folder: Path, model: str) -> str:
    lock = (folder / "modpkg.lock").read_text()
    table = next(part for part in lock.split("[[composed]]") if f'model = "{model}"' in part)
    return next(line for line in table.splitlines() if line.startswith("result"))


def tuned(folder: Path, exported: Path) -> Path:
    """Write a model whose weights are a little away from an exported one's."""
    write(folder, "tuned", "base", (), "")
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(exported / "model.safetensors")
    for name, values in tensors.items():
        if values.ndim == 2:
            noise = torch.randn(values.shape, generator=generator) * 1e-3
            tensors[name] = (values.float() + noise).to(values.dtype)
    save_file(tensors, folder / "model.safetensors")
    for each in exported.iterdir():
        if each.suffix != ".safetensors":
            shutil.copy(each, folder / each.name)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--registry", type=Path, required=True)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="modpkg-nested-"))
    registry = folder / "registry"
    shutil.copytree(options.registry, registry, copy_function=os.link)
    os.environ["MODPKG_REGISTRY"] = str(registry)
    home = folder / "home"
    plain = app(folder / "plain", registry, BASE)
    run(home, "install", cwd=plain)
    run(home, "export", BASE, "--to", "hf", folder / "exported", cwd=plain)
    publish(registry, tuned(folder / "tuned", folder / "exported"), home)
    for name, (recipe, requires) in RECIPES.items():
        more = f"[compose]\n{recipe}\n"
        publish(registry, write(folder / name, name, "model", requires, more), home)
    rows: dict[str, Figures] = {}
    nested = app(folder / "nested", registry, "third")
    rows["one install of third"] = run(folder / "home-nested", "install", cwd=nested)
    digest = result(nested, "third")
    whole: list[str] = []
    for name, (recipe, requires) in RECIPES.items():
        for each in whole:
            recipe = recipe.replace(f'"{each}"', f'"{each}-w"')
        needs = [f"{each}-w" if each in whole else each for each in requires]
        models = f"[models.{name}-s]\n{recipe}\n"
        own = app(folder / f"step-{name}", registry, *needs, more=models)
        rows[f"step by step: {name}"] = run(folder / f"home-{name}", "install", cwd=own)
        if name != "third":
            out = folder / f"{name}-w"
            run(folder / f"home-{name}", "export", f"{name}-s", "--to", "hf", out, cwd=own)
            write(out, f"{name}-w", "base", (), "")
            publish(registry, out, home)
            whole.append(name)
    equal = result(own, "third-s") == digest
    print("| | seconds | peak memory, MB | results and scratch, MB |\n|---|---|---|---|")
    for label, figures in rows.items():
        print(
            f"| {label} | {figures.seconds:.1f} | {figures.memory / 1e6:.0f} | "
            f"{figures.disk / 1e6:.0f} |"
        )
    print(json.dumps({"equal": equal, "digest": digest}))
    if not equal:
        raise SystemExit("the digests differ")


if __name__ == "__main__":
    main()
