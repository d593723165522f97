"""One base with several adapters: live, fused one by one, and in PEFT.

    python benchmarks/live.py BASE [--adapters 8] [--rank 16] [--runs 3] [--threads N]
    python benchmarks/live.py --generate [--device cuda] [--adapters 8] [--rank 16] [--runs 3]

The second generates text in a batch whose rows have different adapters, with a random base of 1.2
billion parameters that it makes itself; `generating` says more.

BASE is a transformers directory (a Llama, or another whose layers have q_proj and v_proj); the
adapters are random LoRAs on q_proj and v_proj. Every variant is a separate process: everything is
imported, then the model and all adapters are loaded, then each adapter is used once. Writes
benchmarks/results/live.md.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
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

MOST_FUSED = 16
"""With more adapters no models are composed, and rows of mixed batches are short."""
MOST_ROWS = 32
WAYS = {"modpkg, live": "live", "modpkg, fused, one model each": "fused", "PEFT": "peft"}


def make_adapters(base: Path, out: Path, count: int, rank: int) -> None:
    """Write random LoRAs."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    for number in range(count):
        torch.manual_seed(number)
        config = peft.LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=["q_proj", "v_proj"],
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        )
        wrapped = peft.get_peft_model(model, config)
        wrapped.save_pretrained(out / f"a{number}")
        model = wrapped.unload()


def memory() -> tuple[float, float]:
    """Return this process's private memory and its resident set, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) / 1000 for line in lines}
    return found["Private_Dirty"] + found.get("Swap", 0.0), found["Rss"]


def child(way: str, work: Path, count: int, threads: int) -> None:
    """Load, switch, run; print the figures."""
    import peft
    import torch
    import transformers

    from modpkg.compose.mapping import map_tensors
    from modpkg.runtime.live import LiveModel
    from modpkg.runtime.live_parts import parts_of
    from modpkg.runtime.load import build_model

    torch.set_num_threads(threads)
    (torch.ones(8, 8) @ torch.ones(8, 8)).sum()
    about: dict[str, Any] = pickle.loads((work / "about").read_bytes())
    folder = about["folder"]
    names = [f"a{number}" for number in range(count)]
    length = 32 if count <= MOST_FUSED else 8
    ids = torch.randint(5, 1000, (count, length), generator=torch.Generator().manual_seed(1))
    transformers.AutoConfig.from_pretrained(folder)
    before = memory()
    start = time.perf_counter()
    switch: list[float] = []
    outputs = []
    if way == "live":
        model: Any = LiveModel("model", parts_of(folder, about["recipes"], about["modules"]))
    elif way == "peft":
        base = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        model = peft.PeftModel.from_pretrained(base, work / "a0", adapter_name="a0").eval()
        for name in names[1:]:
            model.load_adapter(work / name, adapter_name=name)
    else:
        models = {
            name: build_model("model", folder, map_tensors(about["composed"][name].items()))
            for name in names
        }
    seconds = time.perf_counter() - start
    print(f"loaded in {seconds:.1f} s", file=sys.stderr)
    mixed = None
    again: list[float] = []
    with torch.inference_mode():
        for number, name in enumerate(names):
            begin = time.perf_counter()
            if way == "fused":
                model = models[name]
            else:
                model.set_adapter(name)
            switch.append(time.perf_counter() - begin)
            outputs.append(model(input_ids=ids[number : number + 1]).logits[0, -1, :5].tolist())
        if way != "fused":
            for name in names:
                begin = time.perf_counter()
                model.set_adapter(name)
                again.append(time.perf_counter() - begin)
        used = memory()
        print(f"each used after {time.perf_counter() - start:.1f} s", file=sys.stderr)
        if way != "fused":
            times = []
            for _ in range(3 if count <= MOST_FUSED else 1):
                begin = time.perf_counter()
                model(input_ids=ids[:MOST_ROWS], adapter_names=names[:MOST_ROWS])
                times.append(time.perf_counter() - begin)
            mixed = statistics.median(times)
    after = memory()
    print(
        json.dumps(
            {
                "count": count,
                "seconds": seconds,
                "switch": statistics.median(switch[1:]),
                "again": statistics.median(again[1:]) if again else 0.0,
                "mixed": mixed,
                "own": used[0] - before[0],
                "rss": used[1] - before[1],
                "batch": after[0] - before[0],
                "outputs": outputs,
            }
        )
    )


def prepare(base: Path, work: Path, count: int, rank: int) -> None:
    """Write adapters and the inputs of modpkg's variants, with digests computed here."""
    from benchmarks.inputs import installed_module
    from modpkg.compose.executor import compose
    from modpkg.compose.plan import plan
    from modpkg.core.names import ModuleName
    from modpkg.manifest.schema import Compose, Step

    make_adapters(base, work, count, rank)
    modules = {"base": installed_module(base, "base", "base")}
    recipes, composed = {}, {}
    for number in range(count):
        name = f"a{number}"
        modules[f"lora-{number}"] = installed_module(work / name, f"lora-{number}", "adapter")
        step = Step(op="lora", module=ModuleName(f"lora-{number}"))
        recipes[name] = Compose(base=ModuleName("base"), steps=(step,))
        if count > MOST_FUSED:
            continue
        composition = plan(name, "1.0", recipes[name], modules)
        composed[name] = compose(composition, work / "store").tensors
    about = {"folder": base.absolute(), "recipes": recipes, "modules": modules}
    (work / "about").write_bytes(pickle.dumps({**about, "composed": composed}))


def report(base: Path, count: int, rank: int, runs: int, threads: int, work: Path | None) -> str:
    """Return the section of results for a number of adapters."""
    load = os.getloadavg()[0]
    ways = {name: way for name, way in WAYS.items() if way != "fused" or count <= MOST_FUSED}
    with tempfile.TemporaryDirectory() as scratch:
        folder = work or Path(scratch)
        command = [sys.executable, __file__, str(base), "--adapters", str(count)]
        command += ["--rank", str(rank), "--threads", str(threads), "--work", str(folder)]
        if not (folder / "about").exists():
            subprocess.run([*command, "--child", "prepare"], check=True, capture_output=True)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
        for run in range(runs + 1):
            for name, way in ways.items():
                result = folder / f"{way}-{run}.json"
                if not result.exists():
                    child = [*command, "--child", way]
                    done = subprocess.run(child, check=True, capture_output=True, text=True)
                    result.write_text(done.stdout.splitlines()[-1])
                if run:  # the first warms the page cache
                    found[name].append(json.loads(result.read_text()))
        size = sum(path.stat().st_size for path in base.glob("*.safetensors")) / 1e6
        own = (folder / "a0" / "adapter_model.safetensors").stat().st_size / 1e6
    composed = "; fused models were already composed" if "fused" in ways.values() else ""
    length = 32 if count <= MOST_FUSED else 8
    lines = [
        f"# One base with {count} adapters",
        "",
        f"{described()}, transformers {version('transformers')}, peft {version('peft')}.",
        "",
        f"Base `{base.name}` ({size:.0f} MB), {count} LoRAs of rank {rank} on q_proj and v_proj "
        f"({own:.1f} MB each). Median of {runs} fresh processes with {threads} thread(s), load "
        f"average {load:.1f} at the start; `python benchmarks/live.py`. Everything is imported and "
        f"in the page cache before the clock starts{composed}. The first switch prepares an "
        "adapter. Memory is beyond that of the imports, after every adapter was used by itself: "
        "the process's own (by adapter, and with the mixed batch), and with what it maps from "
        f"files, which others share. A mixed batch has {min(count, MOST_ROWS)} rows of {length} "
        "tokens, each with another adapter.",
        "",
        "| | load | by adapter | first switch | switch | mixed batch | own memory | by adapter "
        "| with the batch | with mapped files |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, results in found.items():
        middle = {
            key: statistics.median(result[key] for result in results)
            for key in ("seconds", "switch", "again", "own", "rss", "batch")
        }
        mixed = batch = "—"
        many = results[0]["count"]
        if results[0]["mixed"] is not None:
            mixed = f"{1000 * statistics.median(result['mixed'] for result in results):.0f} ms"
            batch = f"{middle['batch']:.0f} MB"
        lines.append(
            f"| {name if many == count else f'{name}, {many} of them'} "
            f"| {1000 * middle['seconds']:.0f} ms "
            f"| {1000 * middle['seconds'] / many:.1f} ms | {1e6 * middle['switch']:.0f} µs "
            f"| {1e6 * middle['again']:.0f} µs | {mixed} | {middle['own']:.0f} MB "
            f"| {middle['own'] / many:.2f} MB | {batch} | {middle['rss']:.0f} MB |"
        )
    outputs = {ways[name]: results[0]["outputs"] for name, results in found.items()}

    def apart(one: Any, other: Any) -> float:
        rows = zip(one, other, strict=False)  # of those that both have
        return max(abs(a - b) for pair in rows for a, b in zip(*pair, strict=True))

    compared = [
        f"live and {other} {apart(outputs['live'], outputs[way]):.3g}"
        for way, other in (("fused", "fused"), ("peft", "PEFT"))
        if way in outputs
    ]
    lines += ["", f"Greatest difference of the logits compared: {', '.join(compared)}.", ""]
    return "\n".join(lines)


def write_section(section: str, page: Path) -> None:
    """Write a section into the page, in the place of one of the same title."""
    title = section.splitlines()[0]
    text = page.read_text() if page.exists() else ""
    parts = ["# " + part for part in ("\n" + text).split("\n# ")[1:]]
    kept = [part.rstrip("\n") + "\n" for part in parts if part.splitlines()[0] != title]
    page.write_text("\n".join([*kept, section]))


ONE_BILLION = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
"""The shapes of Llama 3.2 1B."""


def make_random(work: Path, shapes: dict[str, Any], count: int, rank: int, device: str) -> None:
    """Write a random Llama in bfloat16, and LoRAs on all of its linear layers in float32."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**shapes, bos_token_id=None, eos_token_id=None))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(work / "base")
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name != "lm_head"
    }
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank}
    config |= {"base_model_name_or_path": "base", "target_modules": "all-linear"}
    for number in range(count):
        tensors = {}
        for name, layer in layers.items():
            place = f"base_model.model.{name}.lora"
            high, wide = layer.weight.shape
            tensors[f"{place}_A.weight"] = torch.randn(rank, wide) / wide**0.5
            tensors[f"{place}_B.weight"] = torch.randn(high, rank) / (50 * rank**0.5)
        folder = work / f"a{number}"
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))


def generating(
    device: str = "cpu",
    *,
    shapes: dict[str, Any] | None = None,
    rows: int = 16,
    tokens: int = 32,
    count: int = 8,
    rank: int = 16,
    runs: int = 3,
    work: Path | None = None,
) -> dict[str, float]:
    """Time generating text: the base alone, with one adapter, and with ``count`` mixed by row.

    All models are in memory together, and take turns; each runs once before the clock starts. The
    base is bfloat16. Adapters are timed in float32, as PEFT saves and runs them, and with the whole
    model converted to bfloat16.

    Args:
        device: torch's name of the device.
        shapes: Of the Llama, by default those of one with 1.2 billion parameters.
        rows: Of the batch, each with a prompt of as many tokens as are generated.
        tokens: New tokens of each row.
        count: The number of adapters.
        rank: Of each adapter.
        runs: Of which the median is taken.
        work: An empty folder for the models; by default one that is removed.

    Returns:
        Seconds for each way to run, and after ``difference`` those of logits.
    """
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks.inputs import installed_module
    from modpkg.core.names import ModuleName
    from modpkg.manifest.schema import Compose, Step
    from modpkg.runtime.live import LiveModel
    from modpkg.runtime.live_parts import parts_of

    with tempfile.TemporaryDirectory() as scratch:
        folder = work or Path(scratch)
        make_random(folder, shapes or ONE_BILLION, count, rank, device)
        names = [f"a{number}" for number in range(count)]
        modules = {"base": installed_module(folder / "base", "base", "base")}
        recipes = {}
        for name in names:
            modules[name] = installed_module(folder / name, name, "adapter")
            step = Step(op="lora", module=ModuleName(name))
            recipes[f"with-{name}"] = Compose(base=ModuleName("base"), steps=(step,))
        read = AutoModelForCausalLM.from_pretrained
        base = read(folder / "base", local_files_only=True).eval().to(device)
        again = read(folder / "base", local_files_only=True)
        theirs = peft.PeftModel.from_pretrained(again, folder / "a0", adapter_name="a0").eval()
        for name in names[1:]:
            theirs.load_adapter(folder / name, adapter_name=name)
        theirs.to(device)
        live = LiveModel("base", parts_of(folder / "base", recipes, modules)).to(device)

        ids = torch.randint(5, 1000, (rows, tokens), generator=torch.Generator().manual_seed(1))
        batch = {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}
        mixed = [names[row % count] for row in range(rows)]
        options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}

        def timed(model: Any, each: list[str] | None) -> float:
            more = {} if each is None else {"adapter_names": each}
            start = time.perf_counter()
            out = model.generate(**batch, **options, **more, pad_token_id=0)
            out.cpu()  # waits for the device
            return time.perf_counter() - start

        found: dict[str, float] = {}
        ways: dict[str, tuple[Any, list[str] | None]]
        for kind in ("float32", "bfloat16"):
            if kind == "bfloat16":
                live.to(torch.bfloat16)
                theirs.to(torch.bfloat16)
            live.set_adapter("a0")
            theirs.set_adapter("a0")
            ways = {"the base alone": (base, None)} if kind == "float32" else {}
            ways[f"modpkg, one live, {kind}"] = (live, None)
            ways[f"modpkg, {count} by row, {kind}"] = (live, mixed)
            ways[f"PEFT, one, {kind}"] = (theirs, None)
            ways[f"PEFT, {count} by row, {kind}"] = (theirs, mixed)
            times: dict[str, list[float]] = {name: [] for name in ways}
            for run in range(runs + 1):
                for name, (model, each) in ways.items():
                    seconds = timed(model, each)
                    if run:
                        times[name].append(seconds)
            found |= {name: statistics.median(each) for name, each in times.items()}
            with torch.inference_mode():
                for what, each in (("one", None), ("by row", mixed)):
                    more = {} if each is None else {"adapter_names": each}
                    ours = live(**batch, **more).logits.float()
                    other = theirs(**batch, **more).logits.float()
                    plain = base(**batch).logits.float()
                    apart = (ours - other).abs().max() / (other - plain).abs().max()
                    found[f"difference from PEFT, {what}, {kind}"] = apart.item()
    return found


def described_times(found: dict[str, float]) -> str:
    """Return a table of `generating`."""
    alone = found["the base alone"]
    lines = ["| generating | seconds | times the base alone |", "|---|---|---|"]
    for name, value in found.items():
        if not name.startswith("difference"):
            lines.append(f"| {name} | {value:.3f} | {value / alone:.2f} |")
    lines.append("")
    lines += [
        f"Greatest {name}, of the adapters' greatest change of a logit: {value:.2g}."
        for name, value in found.items()
        if name.startswith("difference")
    ]
    return "\n".join(lines)


def main() -> None:
    """Run, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("base", type=Path, nargs="?")
    parser.add_argument("--generate", action="store_true", help="time generating by rows")
    parser.add_argument("--device", default="cpu", help="of --generate")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--child", choices=["prepare", *WAYS.values()], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help="an empty folder, or one of an earlier run")
    options = parser.parse_args()
    if options.generate:
        found = generating(
            options.device, count=options.adapters, rank=options.rank, runs=options.runs
        )
        print(described_times(found))
    elif options.base is None:
        parser.error("name a BASE, or say --generate")
    elif options.child == "prepare":
        prepare(options.base, options.work, options.adapters, options.rank)
    elif options.child:
        child(options.child, options.work, options.adapters, options.threads)
    else:
        how = (options.adapters, options.rank, options.runs, options.threads, options.work)
        section = report(options.base, *how)
        print(section)
        write_section(section, Path(__file__).parent / "results" / "live.md")


if __name__ == "__main__":
    main()
