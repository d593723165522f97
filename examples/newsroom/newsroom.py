"""A downstream app: a summary and the tone of each article, from models it depends on by version.

usage: modpkg install && python newsroom.py article.txt
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

import modpkg


def tone(text: str) -> str:
    """Return the most likely label of a text, with a model used as any torch module."""
    model = modpkg.load("sentiment")
    tokenizer = AutoTokenizer.from_pretrained(modpkg.path("sentiment"))
    with torch.inference_mode():
        logits = model(**tokenizer(text, return_tensors="pt", truncation=True)).logits
    return str(model.config.id2label[int(logits.argmax())])


def main() -> None:
    """Print what a newsroom's desk wants to see of each file."""
    for file in sys.argv[1:]:
        text = Path(file).read_text()
        print(f"{file}: {modpkg.run('summarizer', text).text}")
        print(f"{file}: the tone is {tone(text)}")


if __name__ == "__main__":
    main()
