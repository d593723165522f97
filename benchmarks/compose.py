"""Composing whole models: modpkg compared with mergekit, PEFT and a plain copy.

    python benchmarks/compose.py A B C --mergekit .venv-mergekit/bin/mergekit-yaml
        [--adapter ADAPTER] [--runs 3] [--threads N] [--large GB]

A, B and C are directories of one architecture, as saved by transformers; B and C may be the word
`perturbed`, for copies of A with noise. Every figure is of a whole process, from its start to its
end, imports included: the median of the runs, taken in turns, with files in the page cache.
Memory is the greatest resident set of the process, or of the largest one that it starts (mapped
files count); Linux starts counting at that of the parent process, this one, which is some 40 MB.
Writes benchmarks/results/compose.md.

modpkg reads digests of its inputs from a file, as an install has them from the release records;
it hashes what it writes, and waits for the disk. What was just fetched is verified already; inputs
that were in the store are hashed again. The others verify nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.compose_once import RECIPES  # noqa: E402
from benchmarks.machine import described  # noqa: E402

ONCE = Path(__file__).with_name("compose_once.py")

COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"
PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
torch.set_num_threads(int(sys.argv[4]))
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], local_files_only=True)
merged = PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload()
merged.save_pretrained(sys.argv[3])
"""


def run(command: list[str], folder: Path) -> dict[str, float]:
    """Run a command, and return its wall seconds, CPU seconds and peak memory in MB."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed:\n{errors}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": time.perf_counter() - begun,
        "processor": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * unit / 1e6,
    }


def measured(ways: dict[str, Any], scratch: Path, runs: int) -> dict[str, dict[str, float]]:
    """Return the median figures of each way, run in turns; the first turn does not count."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for turn in range(runs + 1):
        for name, command in ways.items():
            out = scratch / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            figures = run([str(part) for part in command(out)], scratch)
            if turn or runs == 0:
                found[name].append(figures)
    shutil.rmtree(scratch / "out", ignore_errors=True)
    return {
        name: {key: statistics.median(each[key] for each in rows) for key in rows[0]}
        for name, rows in found.items()
    }


def table(title: str, found: dict[str, dict[str, float]]) -> list[str]:
    """Return a section of the page; the first way is modpkg, which all others are compared with."""
    ours = next(iter(found.values()))
    lines = [f"## {title}", "", "| | whole process | processor | memory | modpkg takes |"]
    lines += ["|---|---|---|---|---|"]
    for name, figures in found.items():
        times = figures["seconds"] / ours["seconds"]
        less = f"1/{times:.1f} of the time" if times > 1 else f"{1 / times:.0f} times as long"
        if times > 1:
            less += f", 1/{figures['memory'] / ours['memory']:.1f} of the memory"
        if figures is ours:
            less = ""
        lines.append(
            f"| {name} | {figures['seconds']:.2f} s | {figures['processor']:.2f} s "
            f"| {figures['memory']:.0f} MB | {less} |"
        )
    return [*lines, ""]


def _made_elsewhere(make: Any, *arguments: Any) -> None:
    """Call a function in a separate process: this one has to stay small (see above)."""
    process = multiprocessing.get_context("spawn").Process(target=make, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{make.__name__} failed")


def perturbed(source: Path, target: Path, seed: int) -> None:
    """Write a copy of a model with a little noise on every weight."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    draws = torch.Generator().manual_seed(seed)
    for pack in source.glob("*.safetensors"):
        tensors = {}
        for name, tensor in load_file(pack).items():
            noise = torch.randn(tensor.shape, generator=draws)
            wide = tensor.float()
            tensors[name] = (wide + 0.02 * wide.abs().mean() * noise).to(tensor.dtype)
        save_file(tensors, target / pack.name, {"format": "pt"})


def large(folder: Path, gigabytes: float) -> None:
    """Write a model shaped like a Llama of 7B, with as many layers as fit, and random weights."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    hidden, inner, vocabulary = 4096, 11008, 32000
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    layer = 0
    while 2e-9 * sum(torch.Size(shape).numel() for shape in shapes.values()) < gigabytes:
        for name in "qkvo":
            shapes[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = (hidden, hidden)
        for name, shape in (("gate", (inner, hidden)), ("down", (hidden, inner))):
            shapes[f"model.layers.{layer}.mlp.{name}_proj.weight"] = shape
        layer += 1
    names = list(shapes)
    size = max(1, len(names) // max(1, int(gigabytes)))
    for number, start in enumerate(range(0, len(names), size)):
        part = {
            name: torch.empty(shapes[name], dtype=torch.bfloat16).normal_(std=0.02)
            for name in names[start : start + size]
        }
        save_file(part, folder / f"model-{number:03d}.safetensors")
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layer}))


def report(options: argparse.Namespace, scratch: Path) -> list[str]:
    """Return the page of results."""
    from benchmarks.inputs import installed_module

    a = options.a.absolute()
    models = {"a": a}
    for seed, (name, given) in enumerate((("b", options.b), ("c", options.c))):
        own = scratch / name
        models[name] = own if given == "perturbed" else Path(given).absolute()
        if given == "perturbed":
            _made_elsewhere(perturbed, a, own, seed)
    modules = {name: installed_module(path, name, "base") for name, path in models.items()}
    if options.adapter:
        modules["adapter"] = installed_module(options.adapter, "adapter", "adapter")
    known = scratch / "modules"
    known.write_bytes(pickle.dumps(modules))

    def ours(recipe: str, how: str = "verified") -> Any:
        threads = str(options.threads)
        return lambda out: [sys.executable, ONCE, known, recipe, out, threads, how]

    pack = next(a.glob("*.safetensors"))

    def copied(out: Path) -> list[Any]:
        return [sys.executable, "-c", COPY, pack, out / "copy"]

    lines = [
        "# Composing whole models", "", f"{described()}.", "",
        f"`{a.name}` and others of its shape; median of {max(options.runs, 1)} process(es) each, "
        f"{options.threads} thread(s), load average {os.getloadavg()[0]:.1f} at the start. Under "
        "load, CPU time is more meaningful than wall time. Memory is at least that "
        "of the measuring process.", "",
    ]  # fmt: skip
    if options.mergekit:
        for name, recipe in RECIPES.items():
            more = {"density": recipe["density"]} if "density" in recipe else {}
            written: dict[str, Any] = {
                "merge_method": recipe["method"], "dtype": "bfloat16",
                "models": [
                    {"model": str(models[other]), "parameters": {"weight": weight, **more}}
                    for other, weight in zip("bc", recipe["weights"], strict=True)
                ],
            }  # fmt: skip
            if "base" in recipe:
                first = {"model": str(a), "parameters": {"weight": recipe["base"]}}
                written["models"].insert(0, first)
            else:
                written["base_model"] = str(a)
            config = scratch / f"{name}.yml"
            config.write_text(json.dumps(written))  # JSON is YAML
            ways = {
                "modpkg": ours(name),
                "modpkg, inputs hashed again": ours(name, "hashed"),
                "mergekit-yaml": lambda out, c=config: [options.mergekit, c, out / "merged"],
                "a copy of the result": copied,
            }
            weights = " and ".join(map(str, recipe["weights"]))
            title = f"{recipe['method']}, three models, weights {weights}"
            lines += table(title, measured(ways, scratch, options.runs))
    if options.adapter:
        ways = {
            "modpkg": ours("lora"),
            "modpkg, inputs hashed again": ours("lora", "hashed"),
            "PEFT, merge_and_unload, save_pretrained": lambda out: [
                sys.executable, "-c", PEFT, a, options.adapter.absolute(), out, options.threads,
            ],
            "a copy of the base": copied,
        }  # fmt: skip
        lines += table("LoRA", measured(ways, scratch, options.runs))
    if options.large:
        lines += _flat(options, scratch, known, ours)
    return lines


def _flat(options: argparse.Namespace, scratch: Path, known: Path, ours: Any) -> list[str]:
    from benchmarks.inputs import installed_module

    lines = ["## Memory by size: linear, of a random bf16 model with itself", ""]
    lines += [
        "Layers shaped like Llama 7B's, without `up_proj`, as many as fit that size.",
        "",
    ]
    lines += ["| size | whole process | memory |", "|---|---|---|"]
    for share in (0.25, 1.0):
        folder = scratch / "large"
        _made_elsewhere(large, folder, options.large * share)
        one = installed_module(folder, "a", "base")
        size = sum(ref.length for ref in one.tensors.values()) / 1e9
        known.write_bytes(pickle.dumps(dict.fromkeys("abc", one)))
        found = measured({"modpkg": ours("linear")}, scratch, 0)["modpkg"]
        lines.append(f"| {size:.1f} GB | {found['seconds']:.0f} s | {found['memory']:.0f} MB |")
        shutil.rmtree(folder)
    return [*lines, ""]


def main() -> None:
    """Run, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("a", type=Path)
    parser.add_argument("b")
    parser.add_argument("c")
    parser.add_argument("--mergekit", type=Path, help="mergekit's own mergekit-yaml")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--large", type=float, default=0.0, help="GB of a random model")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        page = "\n".join(report(options, Path(scratch)))
    print(page)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "compose.md").write_text(page)


if __name__ == "__main__":
    main()
