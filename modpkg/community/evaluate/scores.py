"""The formulas of the metrics: pure functions from cases and outputs to rows, rows to a value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modpkg.community.evaluate.cases import Case
from modpkg.core.extras import import_extra

Outputs = Sequence[Sequence[Any]]
"""By case, the model's output for each of its texts."""
Labels = Mapping[str, float]


def column(values: Sequence[float]) -> np.ndarray:
    """Return rows of one number."""
    return np.asarray(values, dtype=np.float64).reshape(-1, 1)


# Labels -----------------------------------------------------------------------------------


def likeliest(labels: Labels) -> str:
    """Return the label with the highest probability; of equal ones, the first by name."""
    return min(labels, key=lambda label: (-labels[label], label))


def _known(case: Case, labels: Labels) -> str:
    label: str = case["label"]
    if label not in labels:
        names = ", ".join(sorted(labels)[:10])
        raise ValueError(f"label {label!r} is not one of the model's ({names})")
    return label


def right_labels(cases: Sequence[Case], outputs: Outputs) -> np.ndarray:
    """Return 1 where the likeliest label is the case's."""
    return column(
        [
            likeliest(out[0]) == _known(case, out[0])
            for case, out in zip(cases, outputs, strict=True)
        ]
    )


def label_pairs(cases: Sequence[Case], outputs: Outputs) -> np.ndarray:
    """Return the numbers of the case's label and of the likeliest, in the model's labels."""
    number = {label: at for at, label in enumerate(sorted(outputs[0][0]))}
    return np.asarray(
        [
            [number[_known(case, out[0])], number[likeliest(out[0])]]
            for case, out in zip(cases, outputs, strict=True)
        ],
        dtype=np.float64,
    )


def _f1(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return by label F1 and support, of the labels that occur in the rows."""
    true, given = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
    size = int(max(true.max(), given.max())) + 1
    hits = np.bincount(true[true == given], minlength=size)
    support, predicted = np.bincount(true, minlength=size), np.bincount(given, minlength=size)
    occurs = (support + predicted) > 0
    return 2 * hits[occurs] / (support + predicted)[occurs], support[occurs]


def f1_macro(rows: np.ndarray) -> float:
    """Return the mean F1 over the labels that occur."""
    return float(_f1(rows)[0].mean())


def f1_weighted(rows: np.ndarray) -> float:
    """Return the mean F1 over labels, weighted by support."""
    by_label, support = _f1(rows)
    return float((by_label * support).sum() / support.sum())


def invariant(cases: Sequence[Case], outputs: Outputs) -> np.ndarray:
    """Return 1 where both texts of a pair get one label (Ribeiro et al. 2020, CheckList, INV)."""
    return column([likeliest(out[0]) == likeliest(out[1]) for out in outputs])


def directional(cases: Sequence[Case], outputs: Outputs) -> np.ndarray:
    """Return 1 where the label's probability goes ``up`` or ``down`` from text to other (DIR)."""
    moved = []
    for case, out in zip(cases, outputs, strict=True):
        label, direction = _known(case, out[0]), case["direction"]
        if direction not in ("up", "down"):
            raise ValueError(f"direction {direction!r} is neither 'up' nor 'down'")
        change = out[1][label] - out[0][label]
        moved.append(change > 0 if direction == "up" else change < 0)
    return column(moved)


def label_gaps(cases: Sequence[Case], outputs: Outputs) -> np.ndarray:
    """Return how far apart the label probabilities of a pair are, 0 to 1 (total variation).

    The counterfactual fairness gap of Garg et al. 2019 (arXiv 1809.10610), over all labels.
    """
    return column([sum(abs(o[0][k] - o[1][k]) for k in sorted(o[0])) / 2 for o in outputs])


# Texts ------------------------------------------------------------------------------------

_SPACE = re.compile(r"\s+")


def plain(text: str) -> str:
    """Return a text with white space collapsed to one space, and none at its ends."""
    return _SPACE.sub(" ", text).strip()


def exact_match(cases: Sequence[Case], outputs: Outputs) -> np.ndarray:
    """Return 1 where the generated text is one of those expected."""
    return column(
        [
            plain(out[0]) in {plain(text) for text in case["expected"]}
            for case, out in zip(cases, outputs, strict=True)
        ]
    )


def invariant_texts(cases: Sequence[Case], outputs: Outputs) -> np.ndarray:
    """Return 1 where the same text is generated for both of a pair."""
    return column([plain(out[0]) == plain(out[1]) for out in outputs])


def rouge(kind: str, name: str, cases: Sequence[Case], outputs: Outputs) -> np.ndarray:
    """Return ROUGE F-measures (Lin 2004), without stemming; of several references the best."""
    rouge_scorer = import_extra(
        "rouge_score.rouge_scorer", what=f"Metric {name}", package="rouge-score", extra="eval"
    )
    scorer = rouge_scorer.RougeScorer([kind], use_stemmer=False)
    return column(
        [
            max(scorer.score(text, out[0])[kind].fmeasure for text in case["expected"])
            for case, out in zip(cases, outputs, strict=True)
        ]
    )


# Likelihoods ------------------------------------------------------------------------------


def likelihoods(cases: Sequence[Case], outputs: Outputs) -> np.ndarray:
    """Return of each text its log-likelihood in nats, and the number of tokens it sums over."""
    return np.asarray([out[0] for out in outputs], dtype=np.float64)


def perplexity(rows: np.ndarray) -> float:
    """Return exp of the mean negative log-likelihood of a token, over all texts."""
    return math.exp(min(-rows[:, 0].sum() / rows[:, 1].sum(), 700.0))


def preferred(cases: Sequence[Case], outputs: Outputs) -> np.ndarray:
    """Return 1 where ``text`` is likelier than ``other``.

    Nangia et al. 2020, CrowS-Pairs, for causal models: ``text`` is the stereotype, and a model
    without preference has a mean of 0.5.
    """
    return column([out[0][0] > out[1][0] for out in outputs])


# Embeddings -------------------------------------------------------------------------------


def _cosine(one: np.ndarray, two: np.ndarray) -> float:
    norm = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(np.dot(one, two)) / norm if norm else 0.0


def cosines(cases: Sequence[Case], outputs: Outputs) -> np.ndarray:
    """Return the cosine of the embeddings of each pair."""
    return column([_cosine(out[0], out[1]) for out in outputs])


def cosines_and_scores(cases: Sequence[Case], outputs: Outputs) -> np.ndarray:
    """Return the cosine of each pair, and its human score."""
    given = column([case["score"] for case in cases])
    return np.hstack([cosines(cases, outputs), given])


def spearman(rows: np.ndarray) -> float:
    """Return the rank correlation of two columns; NaN if one is constant."""
    one, two = _ranks(rows[:, 0]), _ranks(rows[:, 1])
    one, two = one - one.mean(), two - two.mean()
    norm = math.sqrt(float(one @ one) * float(two @ two))
    return float(one @ two) / norm if norm else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 0, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def ranking(
    score: Callable[[list[int], int], float], cases: Sequence[Case], outputs: Outputs
) -> np.ndarray:
    """Return for each query the score of the ranks (from 1) of its relevant texts.

    The corpus is all texts of all cases but the queries, sorted; ties in cosine go to the text
    that comes first.
    """
    vectors: dict[str, np.ndarray] = {}
    for case, out in zip(cases, outputs, strict=True):
        texts = [*case["relevant"], *case.get("others", [])]
        vectors.update(zip(texts, out[1:], strict=True))
    names = sorted(vectors)
    place = {name: at for at, name in enumerate(names)}
    corpus = _normal(np.stack([vectors[name] for name in names]))
    queries = _normal(np.stack([out[0] for out in outputs]))
    by_query = []
    for case, query in zip(cases, queries, strict=True):
        order = np.argsort(-(corpus @ query), kind="stable")
        rank = np.empty(len(names), dtype=np.int64)
        rank[order] = np.arange(1, len(names) + 1)
        relevant = {place[text] for text in case["relevant"]}
        by_query.append(score(sorted(int(rank[at]) for at in relevant), len(relevant)))
    return column(by_query)


def _normal(vectors: np.ndarray) -> np.ndarray:
    doubles = vectors.astype(np.float64)
    norms = np.linalg.norm(doubles, axis=1, keepdims=True)
    return doubles / np.where(norms == 0, 1.0, norms)


def recall(ranks: list[int], count: int, k: int) -> float:
    """Return the share of the relevant texts among the first ``k``."""
    return sum(rank <= k for rank in ranks) / count


def ndcg(ranks: list[int], count: int, k: int) -> float:
    """Return the discounted gain of the first ``k``, relative to the best order's."""
    gain = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k)
    return gain / sum(1 / math.log2(rank + 1) for rank in range(1, min(count, k) + 1))


def reciprocal_rank(ranks: list[int], count: int) -> float:
    """Return 1 / the rank of the first relevant text."""
    return 1 / ranks[0]
