"""Train two small bases and three adapters, and save them as transformers and PEFT do.

They stand for models of your own: they are trained in seconds, and answer only what they were
trained on. ``base`` is a chat model of a shop's helpdesk; ``formal`` and ``brief`` are LoRA
adapters of it that answer in another tone, ``formal-retrained`` is ``formal`` after more training.
``reader`` is a classifier, and ``mood`` a LoRA adapter of it that finds how a customer feels.

usage: python models.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

QUESTIONS = ["Where is my parcel?", "Can I send it back?", "Is the shop open today?"]
ANSWERS = {
    "base": ["Your parcel arrives tomorrow.", "Yes, within thirty days.", "Yes, until six."],
    "formal": [
        "Your parcel arrives tomorrow, dear customer.",
        "Yes, within thirty days, dear customer.",
        "Yes, until six, dear customer.",
    ],
    "brief": ["Your parcel: tomorrow.", "Yes.", "Yes, until six."],
    "formal-retrained": [
        "Your parcel arrives tomorrow, dear customer. Kind regards.",
        "Yes, within thirty days, dear customer. Kind regards.",
        "Yes, until six, dear customer. Kind regards.",
    ],
}
MOODS = {
    "Thank you, that was quick and kind!": "pleased",
    "What a lovely shop.": "pleased",
    "I am still waiting, and nobody answers.": "annoyed",
    "The parcel was broken, and I want my money back.": "annoyed",
}
LONGEST = 512
"""Tokens that the models take."""
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of the texts here, with a chat template."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [*QUESTIONS, *(text for answers in ANSWERS.values() for text in answers), *MOODS]
    made.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<end>", model_max_length=LONGEST
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def fit(
    model: Any, batch: dict[str, torch.Tensor], rate: float = 3e-3, until: float = 0.03
) -> None:
    """Train until the loss of a batch is low."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=rate, weight_decay=0.0)
    model.train()
    for _ in range(300):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < until:
            break
    model.eval()


def conversations(
    tokenizer: PreTrainedTokenizerFast, answers: list[str], plain: Iterable[str] = ()
) -> dict[str, Any]:
    """Return a batch of each question with its answer, of which only answers count in the loss.

    ``plain`` are texts without a question, from which a base learns the language.
    """
    prompts = [f"user: {question}\nassistant:" for question in QUESTIONS] + ["" for _ in plain]
    rows = [
        (tokenizer(prompt).input_ids, tokenizer(f" {text}<end>").input_ids)
        for prompt, text in zip(prompts, [*answers, *plain], strict=True)
    ]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(rows):
        size = len(prompt) + len(answer)
        ids[row, :size] = torch.tensor(prompt + answer)
        mask[row, :size] = 1
        labels[row, len(prompt) : size] = torch.tensor(answer)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def main() -> None:
    """Write the folders."""
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = make_tokenizer()

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LONGEST,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    base = LlamaForCausalLM(config)
    texts = {text for answers in ANSWERS.values() for text in answers}
    fit(base, conversations(tokenizer, ANSWERS["base"], sorted(texts)), rate=5e-3, until=0.3)
    fit(base, conversations(tokenizer, ANSWERS["base"]), rate=2e-3, until=0.01)
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")

    for name in ("formal", "brief", "formal-retrained"):
        lora = LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=8,
            lora_alpha=16,
            target_modules=["v_proj", "o_proj", "down_proj"],
        )
        model = get_peft_model(LlamaForCausalLM.from_pretrained(folder / "base"), lora)
        fit(model, conversations(tokenizer, ANSWERS[name]))
        model.save_pretrained(folder / name)

    labels = sorted(set(MOODS.values()))
    reader = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LONGEST,
            pad_token_id=tokenizer.pad_token_id,
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
        )
    )
    reader.save_pretrained(folder / "reader")
    tokenizer.save_pretrained(folder / "reader")

    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules=["query", "value"])
    batch = tokenizer([*MOODS], padding=True, return_tensors="pt", return_token_type_ids=False)
    batch["labels"] = torch.tensor([labels.index(mood) for mood in MOODS.values()])
    model = get_peft_model(BertForSequenceClassification.from_pretrained(folder / "reader"), lora)
    fit(model, batch)
    model.save_pretrained(folder / "mood")


if __name__ == "__main__":
    main()
