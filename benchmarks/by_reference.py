"""A base that stays on a hub: what publishing and installing it move, beside an uploaded copy.

usage: python -m benchmarks.by_reference MODEL

MODEL is a directory as transformers saves it, such as SmolLM2 135M (269 MB). It lies on the small
hub of the tests, on this machine. Writes benchmarks/results/by_reference.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import described  # noqa: E402
from tests.hub_server import Hub, hub_server  # noqa: E402

NAMES = ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors")


def measured(hub: Hub, work: Path, home: str, *words: str | Path) -> tuple[float, int]:
    """Run modpkg, and return the seconds that it took and the bytes that the hub sent."""
    before, begun = hub.sent, time.perf_counter()
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "MODPKG_HOME": str(work / home),
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("HF_HUB_OFFLINE", None)
    subprocess.run(
        [sys.executable, "-m", "modpkg", *map(str, words)],
        cwd=work,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun, hub.sent - before


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def rows(model: Path, work: Path) -> list[str]:
    """Return the table, and a line on the locks."""
    lines = [
        "| work | registry | from the hub | written to the registry | wall |",
        "|---|---|---|---|---|",
    ]
    locks = []
    with hub_server() as hub:
        hub.repository("org/base", {n: (model / n).read_bytes() for n in NAMES})
        options = ("--name", "base", "--license", "Apache-2.0")
        taken, moved = measured(hub, work, "home", "import", "hf", "hf://org/base", *options)
        lines.append(f"| `import hf hf://…` | | {moved / 1e6:.2f} MB | | {taken:.1f} s |")
        taken, moved = measured(hub, work, "home", "build", "base", "--registry", "kept")
        lines.append(f"| `build` | | {moved / 1e6:.2f} MB | | {taken:.1f} s |")
        for registry, how in (("kept", "--by-reference"), ("uploaded", "--upload")):
            words = ("publish", "base", "--registry", registry, how)
            taken, moved = measured(hub, work, "home", *words)
            written = size(work / registry)
            lines.append(
                f"| `publish {how}` | {registry} | {moved / 1e6:.2f} MB "
                f"| {written / 1e6:.2f} MB | {taken:.1f} s |"
            )
        for registry in ("kept", "uploaded"):
            (work / registry / "registry.json").write_text('{"name":"one","spec":1}\n')
            app = work / f"app-{registry}"
            app.mkdir()
            (app / "modpkg.toml").write_text(
                f'[app]\nname = "app"\n[registries]\ndefault = "{work / registry}"\n'
                '[dependencies]\nbase = "*"\n'
            )
            taken, moved = measured(hub, work, f"home-{registry}", "-C", app, "install")
            lines.append(f"| `install` | {registry} | {moved / 1e6:.2f} MB | | {taken:.1f} s |")
            locks.append((app / "modpkg.lock").read_text().replace(registry, ""))
    return [*lines, "", "One lock." if locks[0] == locks[1] else "THE LOCKS DIFFER."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    model = parser.parse_args().model
    with tempfile.TemporaryDirectory(prefix="modpkg-by-reference-") as work:
        table = rows(model, Path(work))
    weights = (model / "model.safetensors").stat().st_size / 1e6
    head = [
        "# Weights that stay on a hub",
        "",
        f"`python -m benchmarks.by_reference MODEL`, a model with {weights:.1f} MB of weights; "
        f"{described()}; the hub is on this machine.",
        "",
    ]
    text = "\n".join([*head, *table]) + "\n"
    (ROOT / "benchmarks" / "results" / "by_reference.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
