"""Real sizes: building, publishing, installing, composing and loading models of gigabytes.

    python -m benchmarks.large [--folder DIR] [--sizes 1b 3b] [--runs 3]
        [--sections modules load compose bytes cores device] [--make]

Makes random models of Llama's shapes (`benchmarks.large_models`); needs no network. Every figure
is of a whole process, imports included, unless a row says otherwise: the median of the runs, beside
its floor, which runs in turns with it. A floor reads the same inputs, writes as many bytes and
computes SHA-256 of them, on all cores, and waits for the disk, as modpkg does. Memory is the
greatest resident set of the largest process. ``--make`` only makes the models of ``--sizes``. Rows
that need a GPU are measured where there is one. Writes benchmarks/results/large.md.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import json
import os
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.large_models import SHAPES, make_base, make_fine_tune, make_lora
from benchmarks.machine import described

ROOT = Path(__file__).parents[1]
_PATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
_ENVIRONMENT = {**os.environ, "PYTHONPATH": _PATH, "HF_HUB_OFFLINE": "1"}
_ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled
LORAS = 7
"""LoRAs that are composed one after the other: with 1b, 13.6 GB of results."""
CORES_LORAS = 8
"""The same, on one core and on all."""
_PART = 8 << 20

# Floors -------------------------------------------------------------------------------------------


def floor(inputs: list[Path], out: Path, length: int) -> None:
    """Read all inputs on all cores; write ``length`` bytes of them into ``out``, and hash these.

    Each core reads parts that follow one another and writes a file of its own, so that none waits
    for another's lock.
    """
    sizes = {path: path.stat().st_size for path in inputs}
    parts = [(path, start) for path in inputs for start in range(0, sizes[path], _PART)]
    share = length / sum(sizes.values())
    opened = {path: os.open(path, os.O_RDONLY) for path in inputs}
    out.mkdir()

    def work(number: int) -> None:
        own = parts[number * len(parts) // count : (number + 1) * len(parts) // count]
        buffer = bytearray(_PART)
        descriptor = os.open(out / str(number), os.O_WRONLY | os.O_CREAT)
        for path, start in own:
            view = memoryview(buffer)[: os.preadv(opened[path], [buffer], start)]
            view = view[: round(len(view) * share)]
            hashlib.sha256(view).digest()
            os.write(descriptor, view)
        os.fsync(descriptor)

    count = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


# Whole processes ----------------------------------------------------------------------------------


class Figures(NamedTuple):
    """What one process took."""

    seconds: float
    processor: float
    memory: float
    """Peak resident set in MB."""
    output: str


def run(command: list[Any], folder: Path, *, cores: int = 0, **variables: str) -> Figures:
    """Run a command on the first ``cores`` processors (all if 0), and return its figures."""
    allowed = sorted(os.sched_getaffinity(0))[: cores or None]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            stdout=out,
            stderr=errors,
            env={**_ENVIRONMENT, **variables},
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        out.seek(0)
        errors.seek(0)
        if status:
            raise SystemExit(f"{command} failed:\n{out.read()}\n{errors.read()}")
        return Figures(
            seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6, out.read()
        )


def modpkg(*words: Any) -> list[Any]:
    """Return the command line of modpkg."""
    return [sys.executable, "-m", "modpkg", *words]


def child(name: str, *words: Any) -> list[Any]:
    """Return the command line of a function of this file in a process of its own."""
    return [sys.executable, "-m", "benchmarks.large", "--child", name, *words]


class Turns(NamedTuple):
    """Ways of doing one thing, run in turns."""

    folder: Path
    runs: int

    def __call__(self, ways: dict[str, Callable[[], Figures]]) -> dict[str, Figures]:
        """Return the median figures of each way; one more turn before does not count."""
        found: dict[str, list[Figures]] = {name: [] for name in ways}
        for turn in range(self.runs + (self.runs > 1)):
            for name, way in ways.items():
                figures = way()
                if turn or self.runs == 1:
                    found[name].append(figures)
        medians = {}
        for name, each in found.items():
            middle = [statistics.median(figures[i] for figures in each) for i in range(3)]
            medians[name] = Figures(*middle, each[-1].output)
        return medians


def row(name: str, ours: Figures, least: Figures, length: int) -> str:
    """Return a row of the table of rates."""
    return (
        f"| {name} | {ours.seconds:.2f} s ({ours.processor:.2f} s) | "
        f"{length / ours.seconds / 1e9:.2f} GB/s | {least.seconds:.2f} s | "
        f"{least.seconds / ours.seconds:.2f} | {ours.memory:.0f} MB |"
    )


RATES = [
    "| work | wall (processor) | output | floor | rate of the floor | memory |",
    "|---|---|---|---|---|---|",
]

# Sections -----------------------------------------------------------------------------------------


class Bench(NamedTuple):
    """Where the models and the work are."""

    models: Path
    work: Path
    runs: int
    device: str

    def turns(self) -> Turns:
        return Turns(self.work, self.runs)

    def files(self, name: str) -> list[Path]:
        return sorted((self.models / name).glob("*.safetensors"))

    def size(self, name: str) -> int:
        return sum(path.stat().st_size for path in self.files(name))


def make(models: Path, size: str, *, tunes: bool = True, loras: int = 1) -> None:
    """Make the models of one size that are not there."""
    shape = SHAPES[size]
    if not (models / size).exists():
        make_base(models / size, shape)
    for number in range(loras):
        name = f"lora-{size}" + (f"-{number}" if number else "")
        if not (models / name).exists():
            make_lora(models / name, shape, seed=number)
    for seed, letter in enumerate("bc" if tunes else "", start=1):
        if not (models / f"{size}-{letter}").exists():
            make_fine_tune(models / f"{size}-{letter}", shape, models / size, seed)


def module_ways(bench: Bench, size: str) -> dict[str, Callable[[int], Figures]]:
    """Return how a base is built, published and installed, on so many cores (all if 0)."""
    work = bench.work / "modules"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    home = {"MODPKG_HOME": str(work / "home")}
    imported = modpkg("import", "hf", bench.models / size, "--name", "base", "--license", "MIT")
    run(imported, work, **home)

    def of(*words: Any, clear: tuple[str, ...], folder: str = ".") -> Callable[[int], Figures]:
        def way(cores: int) -> Figures:
            for name in clear:
                shutil.rmtree(work / name, ignore_errors=True)
            (work / folder).mkdir(exist_ok=True)
            return run(modpkg(*words), work / folder, cores=cores, **home)

        return way

    registry = ("--registry", work / "registry")
    return {
        "build": of("build", "base", clear=("base/dist",)),
        "publish": of("publish", "base", *registry, clear=("registry",)),
        "install": of("install", "base", *registry, clear=("home", "app"), folder="app"),
    }


def modules(bench: Bench, size: str) -> list[str]:
    """Build, publish and install a base."""
    length = bench.size(size)

    def least() -> Figures:
        out = bench.work / "copy"
        figures = run(child("floor", out, length, *bench.files(size)), bench.work)
        shutil.rmtree(out)
        return figures

    lines = []
    for name, way in module_ways(bench, size).items():
        found = bench.turns()({name: lambda w=way: w(0), "floor": least})  # type: ignore[misc]
        lines.append(row(f"`{name}` {size}", found[name], found["floor"], length))
    shutil.rmtree(bench.work / "modules")
    return lines


def known(bench: Bench, size: str, loras: int = 1) -> Path:
    """Return a file with the modules of a size, with digests, as an install has them."""
    from benchmarks.inputs import installed_module

    path = bench.work / f"known-{size}-{loras}"
    if not path.exists():
        found = {"a": installed_module(bench.models / size, "a", "base")}
        for letter in "bc":
            if (folder := bench.models / f"{size}-{letter}").exists():
                found[letter] = installed_module(folder, letter, "base")
        for number in range(loras):
            folder = bench.models / (f"lora-{size}" + (f"-{number}" if number else ""))
            found[f"lora{number}"] = installed_module(folder, f"lora{number}", "adapter")
        path.write_bytes(pickle.dumps(found))
    return path


def compositions(found: dict[str, Any], recipe: str) -> list[Any]:
    """Return the planned compositions of a recipe."""
    from modpkg.compose.plan import plan
    from modpkg.core.names import ModuleName
    from modpkg.manifest.schema import Compose, Step

    base = ModuleName("a")
    if recipe.startswith("lora"):
        names = [name for name in found if name.startswith("lora")]
        wanted = names[: 1 if recipe == "lora" else None]
        made = [
            Compose(base=base, steps=(Step(op="lora", module=ModuleName(each)),)) for each in wanted
        ]
    else:
        made = [
            Compose(
                base=base,
                method=recipe,
                parameters={"base_weight": 0.4} if recipe == "linear" else {"density": 0.5},
                steps=tuple(
                    Step(op="dense", module=ModuleName(name), scale=weight)
                    for name, weight in zip("bc", (0.37, 0.23), strict=True)
                ),
            )
        ]
    return [plan(f"m{number}", "1.0", each, found) for number, each in enumerate(made)]


def compose_child(recipe: str, modules: str, store: str, how: str) -> None:
    """Compose; print the results' digests and the bytes that were computed."""
    from modpkg.compose.executor import compose
    from modpkg.compose.workers import Workers
    from modpkg.core.verified import VerifiedFiles

    found = pickle.loads(Path(modules).read_bytes())
    if recipe.startswith("plan-"):
        planned = compositions(found, recipe.removeprefix("plan-"))
        lengths = [item.length for each in planned for item in each.computed.values()]
        print(json.dumps({"bytes": sum(lengths)}))
        return
    options: dict[str, Any] = {}
    settings = dict(each.split("=") for each in how.split(",") if each)
    if "verified" in settings:
        verified = VerifiedFiles()
        for file in {ref.file for module in found.values() for ref in module.tensors.values()}:
            verified.add(file)
        options["verified"] = verified
    if "threads" in settings:
        options["threads"] = int(settings["threads"])
    if "device" in settings:
        options["device"] = settings["device"]
    if "processes" in settings:
        options["executor"] = ProcessPoolExecutor(int(settings["processes"]))
    results = []
    written = 0
    with Workers() as workers:  # as an install does
        for composition in compositions(found, recipe):
            results.append(compose(composition, Path(store), workers=workers, **options).result)
            written += sum(item.length for item in composition.computed.values())
    print(json.dumps({"results": results, "bytes": written}))


def composed(bench: Bench, recipe: str, file: Path, how: str, **options: Any) -> Figures:
    """Compose in a process of its own."""
    store = bench.work / "store"
    shutil.rmtree(store, ignore_errors=True)
    figures = run(child("compose", recipe, file, store, how), bench.work, **options)
    shutil.rmtree(store, ignore_errors=True)
    return figures


def compose(bench: Bench, size: str) -> list[str]:
    """Compose a LoRA into a base, and merge three models, linearly and with TIES."""
    file = known(bench, size)
    base = bench.files(size)
    tunes = [path for letter in "bc" for path in bench.files(f"{size}-{letter}")]
    lines = []
    recipes = {"lora": base, "linear": base + tunes, "ties-mergekit": base + tunes}
    for recipe, inputs in recipes.items():
        length = json.loads(composed(bench, recipe, file, "verified=1").output)["bytes"]

        def least(inputs: list[Path] = inputs, length: int = length) -> Figures:
            out = bench.work / "copy"
            figures = run(child("floor", out, length, *inputs), bench.work)
            shutil.rmtree(out)
            return figures

        ways = {"floor": least}
        hows = {"": "verified=1", ", inputs hashed again": ""}
        for name, how in hows.items():
            ways[name] = lambda r=recipe, h=how: composed(bench, r, file, h)  # type: ignore[misc]
        found = bench.turns()(ways)
        lines += [
            row(f"{recipe} of {size}{name}", found[name], found["floor"], length) for name in hows
        ]
    return lines


def same_bytes(bench: Bench, size: str) -> list[str]:
    """Compose in many ways, and compare the results' digests."""
    file = known(bench, size)
    count = len(os.sched_getaffinity(0))
    ways: dict[str, tuple[str, dict[str, str]]] = {
        "1 thread": ("threads=1", {}),
        f"{count} threads": (f"threads={count}", {}),
        "2 processes": ("processes=2", {}),
        "4 of its own": ("threads=4", {}),
        "OPENBLAS_CORETYPE=Haswell": ("", {"OPENBLAS_CORETYPE": "Haswell"}),
        "OPENBLAS_CORETYPE=Prescott": ("", {"OPENBLAS_CORETYPE": "Prescott"}),
        "torch, cpu": ("device=cpu-torch", {}),
    }
    if bench.device != "cpu":
        ways[bench.device] = (f"device={bench.device}", {})
    lines = ["| method | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    for recipe in ("lora", "linear", "ties-mergekit"):
        cells, first = [], ""
        for how, variables in ways.values():
            result = json.loads(composed(bench, recipe, file, how, **variables).output)["results"]
            first = first or result
            cells.append("equal" if result == first else "DIFFERENT")
        lines.append(f"| {recipe} of {size} | " + " | ".join(cells) + " |")
    return lines


def cores(bench: Bench, size: str) -> list[str]:
    """Compare one core with all of them, beside what the machine could do at all.

    A floor has no part that one core must do alone, so its gain is the machine's: of its memory,
    and of cores that are two halves of one. A tensor's SHA-256 is computed from its first byte to
    its last, by one core at a time; so is a pack's, and a large tensor has one of its own.
    """
    make(bench.models, size, tunes=True, loras=CORES_LORAS)
    count = len(os.sched_getaffinity(0))
    ways = module_ways(bench, size)
    base = bench.files(size)
    tunes = [path for letter in "bc" for path in bench.files(f"{size}-{letter}")]
    streams = {name: (bench.size(size), _largest(bench, size, ".")) for name in ways}
    inputs = dict.fromkeys(ways, base)
    outputs = dict.fromkeys(ways, bench.size(size))
    recipes = {
        "compose a LoRA": ("lora", 1, base, r"layers\."),
        f"compose {CORES_LORAS} LoRAs": ("loras", CORES_LORAS, base, r"layers\."),
        "merge 3 linearly": ("linear", 1, [*base, *tunes], "."),
    }
    for name, (recipe, loras, files, kind) in recipes.items():
        file = known(bench, size, loras)
        ways[name] = lambda few, r=recipe, f=file: composed(  # type: ignore[misc]
            bench, r, f, "verified=1,device=cpu", cores=few
        )
        length = json.loads(composed(bench, "plan-" + recipe, file, "").output)["bytes"]
        streams[name] = (length, _largest(bench, size, kind))
        inputs[name] = files
        outputs[name] = length // loras
    lines = [
        f"| work | 1 core | {count} cores | times | floor, times | bytes / largest tensor |",
        "|---|---|---|---|---|---|",
    ]
    for name, way in ways.items():
        length, largest = streams[name]

        def least(few: int, name: str = name) -> Figures:
            out = bench.work / "copy"
            words = ("floor", out, outputs[name], *inputs[name])
            figures = run(child(*words), bench.work, cores=few)
            shutil.rmtree(out)
            return figures

        found = bench.turns()(
            {
                "floor, 1": lambda w=least: w(1),  # type: ignore[misc]
                "floor": lambda w=least: w(0),  # type: ignore[misc]
                "1": lambda w=way: w(1),  # type: ignore[misc]
                "all": lambda w=way: w(0),  # type: ignore[misc]
            }
        )
        seconds = {each: figures.seconds for each, figures in found.items()}
        one, all_ = seconds["1"], seconds["all"]
        lines.append(
            f"| `{name}` {size} | {one:.2f} s | {all_:.2f} s | {one / all_:.1f} "
            f"| {seconds['floor, 1'] / seconds['floor']:.1f} | {length / largest:.1f} |"
        )
        print(lines[-1], flush=True)
    shutil.rmtree(bench.work / "modules", ignore_errors=True)
    return lines


def _largest(bench: Bench, size: str, kind: str) -> int:
    """Return the bytes of the largest tensor of a base whose name matches."""
    from modpkg.core.packs import read_pack_header

    places = [read_pack_header(path) for path in bench.files(size)]
    return max(
        place.length for each in places for name, place in each.items() if re.search(kind, name)
    )


def devices(bench: Bench, size: str) -> list[str]:
    """Compose several LoRAs into a base on the processor and on the GPU."""
    make(bench.models, size, tunes=False, loras=LORAS)
    file = known(bench, size, LORAS)
    lines = ["| work | device | wall (processor) | output | memory |", "|---|---|---|---|---|"]
    digests = set()
    for device in dict.fromkeys(["cpu", bench.device]):
        how = f"verified=1,device={device}"
        found = composed(bench, "loras", file, how)
        done = json.loads(found.output)
        digests.add(json.dumps(done["results"]))
        lines.append(
            f"| {LORAS} LoRAs of {size}: {done['bytes'] / 1e9:.1f} GB | {device} "
            f"| {found.seconds:.2f} s ({found.processor:.2f} s) "
            f"| {done['bytes'] / found.seconds / 1e9:.2f} GB/s | {found.memory:.0f} MB |"
        )
    lines += ["", "Results byte for byte equal." if len(digests) == 1 else "RESULTS DIFFER."]
    return lines


LOADS = {
    "modpkg.load": "ours",
    "from_pretrained": "transformers",
    "safetensors load_file": "safetensors",
}


def load_child(way: str, folder: str, model: str, device: str) -> None:
    """Load once, in a process that has imported everything and used the device."""
    import torch
    import transformers
    from safetensors.torch import load_file

    from modpkg.runtime.load import load_model

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    getattr(transformers, "LlamaForCausalLM")  # noqa: B009 - imports it
    torch.zeros(1 << 20, device=device).add_(1)

    def settle() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    begun = settle()
    loaded: Any
    if way == "ours":
        loaded = load_model(Path(folder), Path("/"), device=device)
    elif way == "transformers":
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            model, local_files_only=True, **({} if device == "cpu" else {"device_map": device})
        )
    else:
        files = sorted(Path(model).glob("*.safetensors"))
        loaded = [load_file(each, device=device) for each in files]
    seconds = settle() - begun
    forward = None
    if way != "safetensors":
        with torch.no_grad():
            times = [settle()]
            for _ in range(2):
                loaded(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]], device=device))
                times.append(settle())
        forward = [times[1] - times[0], times[2] - times[1]]
    print(json.dumps({"seconds": seconds, "forward": forward}))


def lay_out_child(file: str, store: str, folder: str) -> None:
    """Write what an environment has of a base."""
    from benchmarks.inputs import lay_out
    from modpkg.compose.executor import compose
    from modpkg.compose.plan import plan
    from modpkg.core.names import ModuleName
    from modpkg.manifest.schema import Compose

    found = pickle.loads(Path(file).read_bytes())
    planned = plan("model", "1.0", Compose(base=ModuleName("a"), steps=()), found)
    lay_out(compose(planned, Path(store)), Path(folder))


def loads(bench: Bench, size: str) -> list[str]:
    """Load a base to the device, beside transformers and safetensors."""
    folder = bench.work / "environment"
    run(child("lay_out", known(bench, size, 0), bench.work / "store", folder), bench.work)
    lines = ["| way | device | load | first forward | second |", "|---|---|---|---|---|"]
    for device in [bench.device.removesuffix("-torch")]:
        for name, way in LOADS.items():
            found = []
            for turn in range(bench.runs + (bench.runs > 1)):
                words = ("load", way, folder, bench.models / size, device)
                done = json.loads(run(child(*words), bench.work).output.splitlines()[-1])
                if turn or bench.runs == 1:
                    found.append(done)
            seconds = statistics.median(each["seconds"] for each in found)
            forward = ["", ""]
            if found[0]["forward"]:
                forward = [
                    f"{1000 * statistics.median(each['forward'][i] for each in found):.0f} ms"
                    for i in range(2)
                ]
            lines.append(
                f"| {name} {size} | {device} | {seconds:.2f} s | {forward[0]} | {forward[1]} |"
            )
    return lines


def report(bench: Bench, sizes: list[str], wanted: list[str]) -> list[str]:
    """Return the page of results, printing each section when it is there."""
    lines = [
        "# Real sizes", "",
        f"`python -m benchmarks.large --sizes {' '.join(sizes)}`; {described()}; "
        f"{gpu() if bench.device.startswith('cuda') else 'no GPU'}; load at the start "
        f"{os.getloadavg()[0]:.1f}; median of {bench.runs}; in `{bench.work.parent}`.", "",
    ]  # fmt: skip
    print("\n".join(lines), flush=True)

    def add(title: str, made: list[str]) -> None:
        part = [f"## {title}", "", *made, ""]
        print("\n".join(part), flush=True)
        lines.extend(part)

    for size in sizes:
        some = {"compose", "bytes"} & set(wanted)
        make(bench.models, size, tunes=bool(some), loras=1 if some else 0)
        if "modules" in wanted:
            add(f"Modules: {size}", [*RATES, *modules(bench, size)])
        if "load" in wanted:
            add(f"Loading: {size}", loads(bench, size))
        if "compose" in wanted:
            add(f"Composing: {size}", [*RATES, *compose(bench, size)])
        if "bytes" in wanted:
            add(f"The same bytes: {size}", same_bytes(bench, size))
    if "cores" in wanted:
        add("Cores", cores(bench, sizes[0]))
    if "device" in wanted:
        add("Composing on a device", devices(bench, sizes[0]))
    return lines


def gpu() -> str:
    """Return the name of the GPU."""
    import torch

    return torch.cuda.get_device_name()


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Run, print and write the page."""
    if sys.argv[1:2] == ["--child"]:
        name, *words = sys.argv[2:]
        if name == "floor":
            floor([Path(each) for each in words[2:]], Path(words[0]), int(words[1]))
        elif name == "compose":
            compose_child(*words)
        elif name == "lay_out":
            lay_out_child(*words)
        else:
            load_child(*words)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, help="for models and work; a temporary one if none")
    parser.add_argument("--sizes", nargs="+", choices=list(SHAPES), default=["1b"])
    parser.add_argument("--runs", type=int, default=3)
    every = ["modules", "load", "compose", "bytes", "cores", "device"]
    parser.add_argument("--sections", nargs="+", choices=every, default=every)
    parser.add_argument("--device", default=None)
    parser.add_argument("--make", action="store_true", help="only make the models, in --folder")
    options = parser.parse_args()
    compileall.compile_dir(ROOT / "modpkg", quiet=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).absolute()
        if options.make:
            for size in options.sizes:
                make(folder, size)
            return
        work = Path(tempfile.mkdtemp(prefix="work-", dir=folder))
        try:
            bench = Bench(folder, work, options.runs, options.device or _device())
            page = "\n".join(report(bench, options.sizes, options.sections))
        finally:
            shutil.rmtree(work, ignore_errors=True)
    results = Path(__file__).parent / "results"
    (results / "large.md").write_text(page)


if __name__ == "__main__":
    main()
