"""Where the time of a model's first forward pass goes: pages, kernels or memory.

    python benchmarks/load.py --probe [--threads N] [--shape s]

Makes a random model by code; needs no network. A first pass after `modpkg.load` may take longer
than the second for several reasons, and each row leaves one of them out. The faults are those of
the pass alone. oneDNN says itself how long it took to make its kernels.
"""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.large_models import SHAPES, make_base, make_lora
from benchmarks.machine import described

WAYS = {
    "mapped, as modpkg loads it": "mapped",
    "… every page touched first": "touched",
    "… every page populated by one call first": "populated",
    "… torch's threads started first": "threads",
    "… one product of matrices first": "product",
    "… a tiny model run first": "tiny",
    "copied to aligned memory": "copied",
    "copied, a tiny model run first": "copied tiny",
    "transformers' from_pretrained": "transformers",
    "PEFT, merging": "peft",
}
_POPULATE_READ = 22
"""Linux's advice to map the pages of a range."""
_TIME = re.compile(r"[0-9.]+(?:e[-+]?[0-9]+)?")
IDS = [[1, 2, 3, 4, 5, 6, 7, 8]]


def lay_out_base(base: Path, folder: Path) -> None:
    """Write what an environment has of a base, with its packs where they are."""
    from benchmarks.inputs import installed_module
    from modpkg.core.installed import InstalledModel
    from modpkg.core.sealed import seal

    digest = "sha256:" + "0" * 64
    folder.mkdir()
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    record = InstalledModel(
        name="base",
        version="1.0",
        key=digest,
        result=digest,
        task=None,
        tensors=installed_module(base, "base", "base").tensors,
        modules={"base": "1.0"},
        recipe={},
    )
    (folder / "model.json").write_bytes(seal(record))


def _before(way: str, model: Any, base: Path) -> None:
    """Do what a row does between loading and the first pass."""
    import ctypes

    import torch
    import transformers

    if way == "threads":
        torch.ones(1 << 22).add_(1)
    if way == "product":
        torch.ones(8, 64).bfloat16() @ torch.ones(64, 64).bfloat16()
    if way.endswith("tiny"):
        sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64}
        config = transformers.LlamaConfig(**sizes, **heads)
        transformers.LlamaForCausalLM(config).bfloat16()(torch.tensor(IDS))
    tensors = {value.data_ptr(): value for value in model.state_dict().values()}.values()
    if way == "touched":
        for tensor in tensors:
            tensor.view(-1)[::2048].float().sum().item()
    if way == "populated":
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for tensor in tensors:
            start = tensor.data_ptr() // 4096 * 4096
            madvise(start, tensor.data_ptr() + tensor.nbytes - start, _POPULATE_READ)
    if way.startswith("copied"):
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()


def in_a_child(*words: Any, **named: Any) -> str:
    """Return what `child` prints in a process of its own, a copy of this one.

    This one has imported everything, which takes as long as all rows, and has not run torch yet: so
    there are no threads that the copy lacks.
    """
    with tempfile.TemporaryFile() as out:
        sys.stdout.flush()
        if not (number := os.fork()):
            status = 1
            try:
                os.dup2(out.fileno(), 1)
                child(*words, **named)
                sys.stdout.flush()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = os.waitpid(number, 0)
        if status:
            raise SystemExit(f"{words[0]} failed")
        out.seek(0)
        return out.read().decode()


def child(
    way: str, base: Path, adapter: Path, installed: Path, threads: int, *, kernels: bool = False
) -> None:
    """Load once, run three times, and print the figures as JSON; with what oneDNN says if asked."""
    import torch
    import transformers

    from benchmarks.load import by_peft
    from modpkg.runtime.load import load_model

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    begun = time.perf_counter()
    if way == "peft":
        model: Any = by_peft(base, adapter, lambda: None)
    elif way == "transformers":
        model = transformers.AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    else:
        model = load_model(installed, Path("/"))
    loaded = time.perf_counter()
    left = torch.get_num_threads()
    onednn = torch.backends.mkldnn
    level = onednn.VERBOSE_ON_CREATION if kernels and onednn.is_available() else onednn.VERBOSE_OFF
    with torch.no_grad(), onednn.verbose(level):
        _before(way, model, base)
        rows = []
        print("before", flush=True)
        for _ in range(3):
            start, usage = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
            model(torch.tensor(IDS))
            done, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
            rows.append(
                {
                    "seconds": done - start,
                    "minor": after.ru_minflt - usage.ru_minflt,
                    "major": after.ru_majflt - usage.ru_majflt,
                    "user": after.ru_utime - usage.ru_utime,
                    "system": after.ru_stime - usage.ru_stime,
                }
            )
            print("pass", flush=True)
            if len(rows) == 1:
                between = start - loaded
    print(json.dumps({"load": loaded - begun, "before": between, "threads": left, "rows": rows}))


def _kernels(output: str) -> str:
    """Return what oneDNN says that it did in the first pass."""
    text = output.partition("before\n")[2].partition("pass\n")[0]
    made, ran = [], []
    for line in text.splitlines():
        parts = line.split(",")
        if line.startswith("onednn_verbose") and _TIME.fullmatch(parts[-1]):
            kind = next((part for part in parts if part.startswith(("create", "exec"))), "")
            if kind.startswith("create") and "cache_hit" not in kind:
                made.append(float(parts[-1]))
            elif kind.startswith("exec"):
                ran.append(float(parts[-1]))
    return f"made {len(made)} kernels in {sum(made):.0f} ms and ran {len(ran)} in {sum(ran):.0f} ms"


def probe(shape: str, threads: int, runs: int) -> str:
    """Return a table of all rows, and what the machine says about itself."""
    import peft  # noqa: F401
    import torch
    import transformers

    import modpkg.runtime.load  # noqa: F401

    assert transformers.LlamaForCausalLM
    lines = [
        f"{described()}, {threads} threads, kernel {os.uname().release}, "
        f"{torch.backends.cpu.get_cpu_capability()}, model `{shape}` in bfloat16.",
        "",
        "| | load | then | first pass | second | third | faults of the first: minor, major "
        "| its processor time: user, system | threads after loading |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        make_base(work / "base", SHAPES[shape])
        make_lora(work / "lora", SHAPES[shape])
        lay_out_base(work / "base", work / "installed")
        given = (work / "base", work / "lora", work / "installed", threads)
        for name, way in WAYS.items():
            found = [json.loads(in_a_child(way, *given).splitlines()[-1]) for _ in range(runs)]
            best = sorted(found, key=lambda each: each["rows"][0]["seconds"])[len(found) // 2]
            first = best["rows"][0]
            times = [statistics.median(e["rows"][i]["seconds"] for e in found) for i in range(3)]
            passes = " | ".join(f"{1000 * each:.0f} ms" for each in times)
            lines.append(
                f"| {name} | {1000 * best['load']:.0f} ms | {1000 * best['before']:.0f} ms "
                f"| {passes} | {first['minor']}, {first['major']} "
                f"| {first['user']:.2f} s, {first['system']:.2f} s | {best['threads']} |"
            )
        lines.append("")
        for name, way in (("mapped", "mapped"), ("copied", "copied"), ("PEFT", "peft")):
            lines.append(
                f"First pass, {name}: oneDNN {_kernels(in_a_child(way, *given, kernels=True))}."
            )
    return "\n".join(lines)
