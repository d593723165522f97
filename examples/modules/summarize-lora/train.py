"""Train a LoRA that makes SmolLM2-135M-Instruct summarize a text in one sentence.

    python train.py --base smollm2-135m/ --out 1.2.0/
    python train.py --base smollm2-135m/ --out 1.0.0/ --rank 4 --alpha 8 --steps 25

BASE is a Hugging Face directory of the model; pairs.py makes its training data. Runs on a
CPU in float32; the same seed and library versions give the same adapter.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from pairs import Pair, read_pairs, read_stories
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

PROMPT = "{text}\n\nSummarize the text above in one sentence."
BASE_NAME = "smollm2-135m"
IGNORED = -100  # the label of a token without a loss


def render(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the chat prompt, up to where the answer starts."""
    message = {"role": "user", "content": PROMPT.format(text=text)}
    prompt = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert isinstance(prompt, str)
    return prompt


def encode(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> tuple[list[int], list[int]]:
    """Return a pair's tokens and labels; only the answer and its end have labels."""
    prompt = tokenizer(render(tokenizer, pair.text), add_special_tokens=False)["input_ids"]
    answer = tokenizer(pair.summary, add_special_tokens=False)["input_ids"]
    answer = [*answer, tokenizer.eos_token_id]
    return prompt + answer, [IGNORED] * len(prompt) + answer


def collate(rows: list[tuple[list[int], list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Pad rows of tokens and labels, on the right, to one batch."""
    width = max(len(tokens) for tokens, _ in rows)
    return {
        "input_ids": torch.tensor([t + [pad] * (width - len(t)) for t, _ in rows]),
        "attention_mask": torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t, _ in rows]),
        "labels": torch.tensor([y + [IGNORED] * (width - len(y)) for _, y in rows]),
    }


def answer_loss(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean loss of the answers' tokens; no logits are computed for the prompts."""
    labels = batch["labels"][:, 1:]
    answered = labels != IGNORED
    decoder = model.get_decoder()
    hidden = decoder(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    logits = model.get_output_embeddings()(hidden[:, :-1][answered])
    return torch.nn.functional.cross_entropy(logits, labels[answered])


def train(args: argparse.Namespace) -> None:
    """Train an adapter and save it."""
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
    config = LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=0.05,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    model.train()
    docstrings = [encode(tokenizer, pair) for pair in read_pairs()[0]]
    stories = [encode(tokenizer, pair) for pair in read_stories()[0]]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.01)
    warmup = max(1, args.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 1 - step / args.steps)
    )
    for step in range(args.steps):
        count = round(args.batch * args.stories)
        rows = rng.sample(stories, count) + rng.sample(docstrings, args.batch - count)
        loss = answer_loss(base, collate(rows, tokenizer.pad_token_id))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 9:
            print(f"step {step + 1} loss {loss.item():.3f}", flush=True)
    save(model, config, args.out)


def save(model: torch.nn.Module, config: LoraConfig, out: Path) -> None:
    """Write the two files that PEFT reads, the tensors as bfloat16."""
    out.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model)
    tensors = {name: t.to(torch.bfloat16).contiguous() for name, t in sorted(state.items())}
    save_file(tensors, out / "adapter_model.safetensors", {"format": "pt"})
    config.base_model_name_or_path = BASE_NAME
    config.inference_mode = True
    config.save_pretrained(str(out))
    path = out / "adapter_config.json"
    fields = json.loads(path.read_text("utf-8"))
    fields["target_modules"] = sorted(fields["target_modules"])
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", "utf-8")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train the summarizing LoRA.")
    parser.add_argument("--base", type=Path, required=True, help="directory of the base model")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--stories", type=float, default=0.5, help="share of stories in a batch")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
