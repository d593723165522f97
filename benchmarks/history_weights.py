"""Real releases of one model to measure updates on: fine-tunes, a merge and a fork of a base.

All are trained on the pairs of examples/modules/summarize-lora. They are created once and kept in a
work folder, so that only the measurement has to be repeated.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from benchmarks.machine import described

LORA = Path(__file__).parents[1] / "examples" / "modules" / "summarize-lora"
WEIGHTS = "model.safetensors"
FACTS = "made.json"
"""The file next to the weights that records how they were made. Written last."""
LONGEST = 256
"""Tokens of the longest text."""
Row = tuple[list[int], list[int]]

LAST = "model.layers.29."
BEFORE_LAST = ("model.layers.28.mlp.", "model.layers.28.post_attention_layernorm.")
"""13 of the 272 tensors: the last layer, and the feed-forward block of the one before it."""


FEW_LR, FEW_STEPS = 5e-5, 32
ALL_LR, ALL_STEPS = 3e-4, 64
"""The model's authors tuned it with up to 1e-3 (alignment-handbook, recipes/smollm2/sft)."""


def few(name: str) -> bool:
    """Return whether a tensor is among the 5 % that the small fine-tune trains."""
    return name.startswith((LAST, *BEFORE_LAST))


def every(_: str) -> bool:
    """Return True: every tensor is trained."""
    return True


def rows_of(tokenizer: PreTrainedTokenizerBase, held_out: bool) -> list[Row]:
    """Return the tokens and labels of the texts to train on, or of those held out."""
    if str(LORA) not in sys.path:
        sys.path.insert(0, str(LORA))
    import pairs  # type: ignore[import-not-found]
    from train import encode  # type: ignore[import-not-found]

    pairs.PACKAGES = ()  # the standard library and the stories are enough here
    texts = pairs.read_pairs()[held_out] + pairs.read_stories()[held_out]
    rows = [encode(tokenizer, pair) for pair in texts]
    return [row for row in rows if len(row[0]) <= LONGEST]


def judge(folder: Path) -> None:
    """Record next to a model its mean loss per token on 24 held-out texts."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = rows_of(tokenizer, held_out=True)[:24]
    from train import answer_loss, collate

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    total = count = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), 4):
            chosen = collate(rows[start : start + 4], tokenizer.pad_token_id)
            tokens = int((chosen["labels"] >= 0).sum())
            total += answer_loss(model, chosen).item() * tokens
            count += tokens
    facts = json.loads((folder / FACTS).read_text()) | {"held_out": total / count}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def fine_tune(
    base: Path,
    out: Path,
    trained: Callable[[str], bool],
    *,
    lr: float,
    steps: int,
    batch: int = 2,
    seed: int = 0,
    master: torch.dtype = torch.float32,
) -> None:
    """Fine-tune a base with AdamW and write it in bfloat16.

    The forward and backward passes run in bfloat16. With ``master`` float32 the optimizer keeps
    float32 weights that are rounded once, at the end (the usual mixed precision); with
    bfloat16 each of its steps is rounded to the nearest bfloat16.
    """
    started = time.perf_counter()
    torch.set_num_threads(1)  # so that the order of summation is the same everywhere
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype=master)
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained(name))
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = rows_of(tokenizer, held_out=False)
    from train import answer_loss, collate  # rows_of has put its folder on the path

    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1.0, (n + 1) / warmup))
    tokens = 0
    for step in range(steps):
        chosen = collate(rng.sample(rows, batch), tokenizer.pad_token_id)
        tokens += int(chosen["attention_mask"].sum())
        with torch.autocast("cpu", torch.bfloat16, enabled=master != torch.bfloat16):
            loss = answer_loss(model, chosen)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        print(f"{out.name}: step {step + 1} of {steps}, loss {loss.item():.3f}", flush=True)
    old = load_file(base / WEIGHTS)
    state = model.state_dict()
    new = {name: state[name].detach().to(torch.bfloat16).contiguous() for name in old}
    facts = {
        "method": f"AdamW, master weights {str(master).removeprefix('torch.')}",
        "lr": lr,
        "steps": steps,
        "batch": batch,
        "tokens": tokens,
        "seed": seed,
        "seconds": round(time.perf_counter() - started),
        "machine": described(),
    }
    write(out, base, new, facts)


def write(out: Path, base: Path, new: dict[str, torch.Tensor], facts: dict[str, object]) -> None:
    """Write a release's weights with the base's other files, and what changed in them."""
    old = load_file(base / WEIGHTS)
    changed = {name: int((new[name] != old[name]).sum()) for name in old}
    facts |= {
        "tensors": len(old),
        "tensors_changed": sum(count > 0 for count in changed.values()),
        "values_changed": sum(changed.values()) / sum(t.numel() for t in old.values()),
    }
    out.mkdir(parents=True, exist_ok=True)
    for file in base.iterdir():
        if file.is_file() and file.name not in {WEIGHTS, "modpkg.toml"}:
            shutil.copy2(file, out / file.name)
    save_file({name: new[name] for name in sorted(new)}, out / WEIGHTS, {"format": "pt"})
    (out / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def mean(first: Path, second: Path, out: Path) -> None:
    """Merge two releases: the mean of each value, in float32, rounded once to bfloat16."""
    one, two = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    new = {name: ((one[name].float() + two[name].float()) / 2).to(torch.bfloat16) for name in one}
    write(out, second, new, {"method": f"mean of {first.name} and {second.name}"})


def make(base: Path, work: Path) -> dict[str, Path]:
    """Return the folders of the releases' weights, by step; missing ones are created."""
    folders = {
        "first": work / "smollm2-135m-1.0.0",
        "few": work / "smollm2-135m-1.1.0",
        "lora": LORA / "1.2.0",
        "all": work / "smollm2-135m-1.2.0",
        "merge": work / "smollm2-135m-1.3.0",
        "fork": work / "smollm2-135m-fork-1.0.0",
    }

    def missing(step: str) -> bool:
        return not (folders[step] / FACTS).exists()

    if missing("first"):
        write(folders["first"], base, load_file(base / WEIGHTS), {"method": "unchanged"})
    if missing("few"):
        fine_tune(folders["first"], folders["few"], few, lr=FEW_LR, steps=FEW_STEPS)
    if missing("all"):
        fine_tune(folders["few"], folders["all"], every, lr=ALL_LR, steps=ALL_STEPS, seed=1)
    if missing("merge"):
        mean(folders["few"], folders["all"], folders["merge"])
    if missing("fork"):
        same = load_file(folders["merge"] / WEIGHTS)
        write(
            folders["fork"], folders["merge"], same, {"method": f"copy of {folders['merge'].name}"}
        )
    for step in ("first", "few", "all", "merge"):
        if "held_out" not in json.loads((folders[step] / FACTS).read_text()):
            judge(folders[step])
    return folders
