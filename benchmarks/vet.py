"""Vetting a base with ten dependants: the first time, and again after small changes.

usage: python -m benchmarks.vet --registry FOLDER --base FOLDER --data FILE [--cases N]

REGISTRY is the example registry that `make demo` builds (build/demo/registry), BASE the MiniLM
module that it was built from (build/examples/minilm-l6), DATA hutto_ICWSM_2014.tar.gz from the
sdist of vaderSentiment 3.3.2: texts of four domains, rated by people. The ten dependants are the
sentiment head of examples/, each with its classifier perturbed so that no two are equal, and with a
separate test on other texts. The candidate is MiniLM with its last layer changed slightly.
Writes benchmarks/results/vet.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.machine import described
from tests.command import modpkg

RESULTS = Path(__file__).parent / "results" / "vet.md"
HEAD = Path(__file__).parents[1] / "examples" / "modules" / "sentiment-head" / "1.0.0"
DOMAINS = ("tweets", "movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets")
HEADS = 10


def rated(data: Path) -> list[dict[str, str]]:
    """Return texts with the label of the majority of raters, alternating between domains."""
    by_domain = []
    with tarfile.open(data) as archive:
        for domain in DOMAINS:
            member = archive.extractfile(f"hutto_ICWSM_2014/{domain}_GroundTruth.txt")
            assert member is not None
            found = []
            for line in member.read().decode().splitlines():
                _, rating, text = line.split("\t", 2)
                mean = float(rating)
                label = "negative" if mean < -0.5 else "positive" if mean > 0.5 else "neutral"
                found.append({"text": text, "label": label})
            by_domain.append(found)
    return [case for cases in zip(*by_domain, strict=False) for case in cases]


def moved(folder: Path, names: str, by: float, seed: int) -> None:
    """Add noise to the matrices with ``names`` in their name, relative to their spread."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(tensors.items()):
        if names in name and tensor.ndim == 2:
            drawn = torch.randn(tensor.shape, generator=generator)
            tensors[name] = (tensor + by * tensor.std() * drawn).contiguous()
    save_file(tensors, path)


def publish_head(
    folder: Path, number: int, version: str, texts: list[list[dict[str, str]]], seed: int
) -> None:
    """Publish one dependant, with a test on separate texts."""
    cases = texts[number]
    shutil.copytree(HEAD, folder)
    moved(folder, "classifier", 0.01, seed)
    (folder / "cases.jsonl").write_text("\n".join(map(json.dumps, cases)))
    text = (folder / "modpkg.toml").read_text()
    text = text.replace('"sentiment-head"', f'"head-{number}"').replace('"1.0.0"', f'"{version}"')
    tests = "".join(
        f'[[tests]]\nname = "{metric}"\ncases = "cases.jsonl"\nmetric = "{metric}"\n'
        "tolerance = 0.05\n"
        for metric in ("accuracy", "f1_macro")
    )
    (folder / "modpkg.toml").write_text(text + tests)
    modpkg("build", folder)
    modpkg("publish", folder)


def vetted(candidate: Path) -> tuple[float, float, bytes]:
    """Vet, and return wall seconds, CPU seconds and the report."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "modpkg", "vet", str(candidate), "--dependants", "all", "--json"],
        capture_output=True,
    )
    clock = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1, 3) or done.stderr:
        raise SystemExit(done.stderr.decode())
    processors = sum(after[:2]) - sum(before[:2])
    return clock, processors, done.stdout


def main() -> None:
    """Measure four vettings in one registry and store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--registry", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=200)
    arguments = parser.parse_args()
    count = arguments.cases
    found = rated(arguments.data)
    if len(found) < HEADS * count:
        raise SystemExit("DATA has too few texts")
    texts = [found[number * count : (number + 1) * count] for number in range(HEADS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MODPKG_HOME"] = str(folder / "home")
        os.environ["MODPKG_REGISTRY"] = str(folder / "registry")
        shutil.copytree(arguments.registry, folder / "registry")
        for number in range(HEADS):
            publish_head(folder / f"head-{number}", number, "1.0.0", texts, number)
        candidate = folder / "candidate"
        shutil.copytree(arguments.base, candidate, ignore=shutil.ignore_patterns("dist"))
        moved(candidate, "layer.5.", 0.005, 100)
        text = (candidate / "modpkg.toml").read_text()
        (candidate / "modpkg.toml").write_text(text.replace('"1.0.0"', '"1.0.1"'))
        os.chdir(folder)
        rows = [("the first time", *vetted(candidate))]
        rows.append(("again, nothing changed", *vetted(candidate)))
        publish_head(folder / "changed", 3, "2.0.0", texts, 50)
        rows.append(("again, one dependant changed", *vetted(candidate)))
        moved(candidate, "layer.5.", 0.005, 101)
        rows.append(("another candidate", *vetted(candidate)))
    if rows[0][3] != rows[1][3]:
        raise SystemExit("equal inputs gave different reports")
    last = json.loads(rows[2][3])
    tested = sum(one["state"] == "tested" for one in last["dependants"])
    lines = [
        "# Vetting a base with ten dependants",
        "",
        f"`python -m benchmarks.vet --registry … --base … --data … --cases {arguments.cases}`; "
        f"{described()}. MiniLM, {tested} heads with a test by two metrics on "
        f"{arguments.cases} texts each; whole processes, one run each, in this order, from an "
        "empty store. The first two reports are equal byte for byte.",
        "",
        "| vetting | wall, s | CPU, s | first / this |",
        "|---|---:|---:|---:|",
    ]
    for label, clock, processors, _ in rows:
        share = rows[0][1] / clock
        lines.append(f"| {label} | {clock:.1f} | {processors:.1f} | {share:.1f} |")
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
