"""Metrics: equal to what scikit-learn, SciPy and rouge-score make of the same numbers."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, ndcg_score

from modpkg.community.evaluate import metrics, scores
from modpkg.community.evaluate.metrics import check_metric, find_metric
from tests.raising import raises

labels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@given(labels)
def test_f1_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    rows = np.asarray(pairs, dtype=float)
    for average, ours in (("macro", scores.f1_macro), ("weighted", scores.f1_weighted)):
        theirs = f1_score(rows[:, 0], rows[:, 1], average=average, zero_division=0)
        assert ours(rows) == pytest.approx(theirs, abs=1e-12)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=30))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    rows = np.asarray(pairs, dtype=float)
    assume(len(set(rows[:, 0])) > 1 and len(set(rows[:, 1])) > 1)
    theirs = spearmanr(rows[:, 0], rows[:, 1]).statistic
    assert scores.spearman(rows) == pytest.approx(theirs, abs=1e-12)


def test_spearman_of_a_constant_is_nan() -> None:
    assert math.isnan(scores.spearman(np.ones((3, 2))))


def vector(*numbers: float) -> np.ndarray:
    return np.asarray(numbers, dtype=np.float32)


CORPUS = {
    "q1": vector(1, 0),
    "q2": vector(0, 1),
    "a": vector(0.9, 0.1),
    "b": vector(0.7, 0.5),
    "c": vector(0.1, 1),
    "d": vector(-1, 0),
}
QUERIES: list[dict[str, Any]] = [
    {"text": "q1", "relevant": ["b", "d"], "others": ["a"]},
    {"text": "q2", "relevant": ["c"]},
]


def ranked(name: str) -> list[float]:
    metric = find_metric(name, "here")
    outputs = [[CORPUS[text] for text in metric.inputs(case)] for case in QUERIES]
    return [row[0] for row in metric.rows(QUERIES, outputs)]


def test_retrieval_ranks_all_texts_of_all_cases() -> None:
    # q1: a, b, c, d; q2: c, b, a, d
    assert ranked("mrr") == [0.5, 1.0]
    assert ranked("recall_at_1") == [0.0, 1.0]
    assert ranked("recall_at_2") == [0.5, 1.0]
    assert ranked("recall_at_4") == [1.0, 1.0]
    similar = [[4.0, 3.0, 2.0, 1.0]]
    for k in (1, 2, 4):
        theirs = ndcg_score([[0, 1, 0, 1]], similar, k=k)
        assert ranked(f"ndcg_at_{k}")[0] == pytest.approx(theirs)


def test_rouge_takes_the_best_reference() -> None:
    cases = [{"text": "-", "expected": ["the cat sat", "a dog"]}, {"text": "-", "expected": ["x"]}]
    metric = find_metric("rouge_l", "here")
    rows = metric.rows(cases, [["the cat"], ["y"]])
    assert rows[:, 0].tolist() == [pytest.approx(0.8), 0.0]


def test_rouge_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with raises("M703", match=r"Metric rouge_1 needs .* 'modpkg\[eval\]'"):
        find_metric("rouge_1", "here").rows([{"text": "a", "expected": ["b"]}], [["c"]])


def test_perplexity_weighs_texts_by_their_tokens() -> None:
    rows = np.asarray([[-10.0, 10.0], [-2.0, 1.0]])
    assert scores.perplexity(rows) == pytest.approx(math.exp(12 / 11))
    assert math.isfinite(scores.perplexity(np.asarray([[-1e9, 1.0]])))


def test_exact_match_looks_past_white_space() -> None:
    cases = [{"text": "-", "expected": ["a  b\n", "c"]}] * 3
    rows = scores.exact_match(cases, [["a b"], [" c "], ["A b"]])
    assert rows[:, 0].tolist() == [1.0, 1.0, 0.0]


SURE, UNSURE = {"bad": 0.9, "good": 0.1}, {"bad": 0.6, "good": 0.4}
OTHER = {"bad": 0.2, "good": 0.8}


def test_diagnostic_pairs() -> None:
    pairs = [[SURE, UNSURE], [SURE, OTHER]]
    cases = [
        {"label": "good", "direction": "up"},
        {"label": "good", "direction": "down"},
    ]
    assert scores.invariant([{}, {}], pairs)[:, 0].tolist() == [1.0, 0.0]
    assert scores.directional(cases, pairs)[:, 0].tolist() == [1.0, 0.0]
    assert scores.label_gaps([{}, {}], pairs)[:, 0].tolist() == pytest.approx([0.3, 0.7])
    assert scores.preferred([{}], [[(-3.0, 2), (-4.0, 2)]])[:, 0].tolist() == [1.0]
    with pytest.raises(ValueError, match="neither 'up' nor 'down'"):
        scores.directional([{"label": "good", "direction": "left"}], pairs[:1])


def test_an_unknown_metric_suggests_a_similar_one() -> None:
    with raises("M713") as caught:
        check_metric("rogue_l", "test 'x'")
    assert str(caught.value) == ("test 'x': unknown metric 'rogue_l'; did you mean 'rouge_l'?")
    with raises("M713", match="there are accuracy, bias, "):
        check_metric("zzzz", "test 'x'")
    for name in ("recall_at_0", "recall_at_12345", "ndcg_at_", "recall_at_1 "):
        with raises("M713"):
            check_metric(name, "test 'x'")


def test_every_metric_is_described() -> None:
    from pathlib import Path

    page = (Path(__file__).parents[3] / "docs" / "testing.md").read_text()
    missing = [name for name in metrics.METRICS if f"`{name}`" not in page]
    assert missing == []
