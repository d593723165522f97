"""Measure the base alone and with each adapter on held-out pairs.

    python evaluate.py --base smollm2-135m/ 1.0.0/ 1.2.0/

Writes measured.json beside this script: the mean ROUGE-L of greedy summaries against the first
lines of the docstrings (or the stories' summaries), the share of them that are one finished
sentence, and the mean negative log-likelihood per token of the reference summaries.
"""

import argparse
import json
import random
import re
from pathlib import Path

import torch
from pairs import Pair, read_pairs, read_stories
from peft import PeftModel
from rouge_score.rouge_scorer import RougeScorer
from train import IGNORED, collate, encode, render
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

MAX_NEW_TOKENS = 64
BATCH = 10


def summarize(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: list[Pair]
) -> list[tuple[str, bool]]:
    """Return the greedy summary of each text, and whether it ended by itself."""
    tokenizer.padding_side = "left"
    answers = []
    for start in range(0, len(pairs), BATCH):
        prompts = [render(tokenizer, pair.text) for pair in pairs[start : start + BATCH]]
        batch = tokenizer(prompts, padding=True, add_special_tokens=False, return_tensors="pt")
        tokens = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        for row in tokens[:, batch["input_ids"].shape[1] :]:
            text = tokenizer.decode(row, skip_special_tokens=True).strip()
            answers.append((text, tokenizer.eos_token_id in row.tolist()))
    return answers


def likelihood(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: list[Pair]
) -> float:
    """Return the mean negative log-likelihood per token of the reference summaries."""
    total, count = 0.0, 0
    for pair in pairs:
        batch = collate([encode(tokenizer, pair)], tokenizer.pad_token_id)
        tokens = int((batch["labels"] != IGNORED).sum())
        total += model(**batch).loss.item() * tokens
        count += tokens
    return total / count


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: list[Pair]
) -> dict[str, float | int]:
    """Return the figures of one model on one set of pairs."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    answers = summarize(model, tokenizer, pairs)
    scores = [
        scorer.score(pair.summary, text)["rougeL"].fmeasure
        for pair, (text, _) in zip(pairs, answers, strict=True)
    ]
    single = [ended and not re.search(r"[.!?]\s+[A-Z]|\n", text) for text, ended in answers]
    return {
        "pairs": len(pairs),
        "rouge_l": round(sum(scores) / len(scores), 4),
        "one_sentence": round(sum(single) / len(single), 4),
        "words": round(sum(len(text.split()) for text, _ in answers) / len(answers), 1),
        "nll_per_token": round(likelihood(model, tokenizer, pairs), 4),
    }


def main() -> None:
    """Read the command line, measure and write measured.json."""
    parser = argparse.ArgumentParser(description="Measure the summarizing LoRA.")
    parser.add_argument("--base", type=Path, required=True, help="directory of the base model")
    parser.add_argument("--pairs", type=int, default=60, help="held-out docstrings to use")
    parser.add_argument("--seed", type=int, default=0, help="chooses among them")
    parser.add_argument("adapters", type=Path, nargs="*")
    args = parser.parse_args()
    splits = {"docstrings": read_pairs(), "stories": read_stories()}
    sets = {
        "docstrings": random.Random(args.seed).sample(splits["docstrings"][1], args.pairs),
        "stories": splits["stories"][1],
    }
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    report: dict[str, object] = {
        "seed": args.seed,
        "max_new_tokens": MAX_NEW_TOKENS,
        "pairs": {
            name: {"train": len(train), "held_out": len(held_out)}
            for name, (train, held_out) in splits.items()
        },
    }
    for adapter in [None, *args.adapters]:
        model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
        if adapter:
            model = PeftModel.from_pretrained(model, str(adapter))
        model.eval()
        name = adapter.resolve().name if adapter else "base alone"
        with torch.inference_mode():
            report[name] = {key: measure(model, tokenizer, pairs) for key, pairs in sets.items()}
        print(name, report[name], flush=True)
    path = Path(__file__).with_name("measured.json")
    path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
