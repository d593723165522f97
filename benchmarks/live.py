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
    ids = torch.randint(5, 1000, (count, 32), generator=torch.Generator().manual_seed(1))
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
    mixed = None
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
            times = []
            for _ in range(3):
                begin = time.perf_counter()
                model(input_ids=ids, adapter_names=names)
                times.append(time.perf_counter() - begin)
            mixed = statistics.median(times)
    after = memory()
    print(
        json.dumps(
            {
                "seconds": seconds,
                "switch": statistics.median(switch[1:]),
                "mixed": mixed,
                "own": after[0] - before[0],
                "rss": after[1] - before[1],
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
        composition = plan(name, "1.0", recipes[name], modules)
        composed[name] = compose(composition, work / "store").tensors
    about = {"folder": base.absolute(), "recipes": recipes, "modules": modules}
    (work / "about").write_bytes(pickle.dumps({**about, "composed": composed}))


def report(base: Path, count: int, rank: int, runs: int, threads: int) -> str:
    """Return the page of results."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        command = [sys.executable, __file__, str(base), "--adapters", str(count)]
        command += ["--rank", str(rank), "--threads", str(threads), "--work", scratch, "--child"]
        subprocess.run([*command, "prepare"], check=True, capture_output=True)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
        for run in range(runs + 1):
            for name, way in WAYS.items():
                done = subprocess.run([*command, way], check=True, capture_output=True, text=True)
                if run:  # the first warms the page cache
                    found[name].append(json.loads(done.stdout.splitlines()[-1]))
        size = sum(path.stat().st_size for path in base.glob("*.safetensors")) / 1e6
        own = (work / "a0" / "adapter_model.safetensors").stat().st_size / 1e6
    lines = [
        f"# One base with {count} adapters",
        "",
        f"{described()}, transformers {version('transformers')}, peft {version('peft')}.",
        "",
        f"Base `{base.name}` ({size:.0f} MB), {count} LoRAs of rank {rank} on q_proj and v_proj "
        f"({own:.1f} MB each). Median of {runs} fresh processes with {threads} thread(s), load "
        f"average {load:.1f} at the start; `python benchmarks/live.py`. Everything is imported and "
        "in the page cache before the clock starts; fused models were already composed. Memory is "
        "beyond that of the imports, after every adapter was used: the process's own, and with "
        "what it maps from files, which others share. A mixed batch has a row of 32 tokens for "
        "each adapter.",
        "",
        "| | load | switch | mixed batch | own memory | with mapped files |",
        "|---|---|---|---|---|---|",
    ]
    for name, results in found.items():
        middle = {
            key: statistics.median(result[key] for result in results)
            for key in ("seconds", "switch", "own", "rss")
        }
        mixed = "—"
        if results[0]["mixed"] is not None:
            mixed = f"{1000 * statistics.median(result['mixed'] for result in results):.0f} ms"
        lines.append(
            f"| {name} | {1000 * middle['seconds']:.0f} ms | {1000 * middle['switch']:.1f} ms "
            f"| {mixed} | {middle['own']:.0f} MB | {middle['rss']:.0f} MB |"
        )
    ours, fused, theirs = (results[0]["outputs"] for results in found.values())

    def apart(one: Any, other: Any) -> float:
        rows = zip(one, other, strict=True)
        return max(abs(a - b) for pair in rows for a, b in zip(*pair, strict=True))

    lines += [
        "",
        f"Greatest difference of the logits compared: live and fused "
        f"{apart(ours, fused):.3g}, live and PEFT {apart(ours, theirs):.3g}.",
        "",
    ]
    return "\n".join(lines)


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
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
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
        page = report(options.base, options.adapters, options.rank, options.runs, options.threads)
        print(page)
        (Path(__file__).parent / "results" / "live.md").write_text(page)


if __name__ == "__main__":
    main()
