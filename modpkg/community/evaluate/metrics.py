"""Metrics by name: the numbers that each case gets, and how they become one value.

Packages that a user installed add metrics under the entry point group ``modpkg.metrics``: each
names a `Metric`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Literal

import numpy as np
from msgspec import Struct

from modpkg.community.evaluate import scores
from modpkg.community.evaluate.cases import Case, Column
from modpkg.compose.plugins import find
from modpkg.core.errors import TestError
from modpkg.core.extras import require_extra
from modpkg.core.report import Better
from modpkg.toml.node import hint

Output = Literal["labels", "text", "embedding", "likelihood"]
"""What a metric needs of the model for a text: probabilities by label; generated text; an
embedding (a float32 vector); or the text's log-likelihood in nats, and the number of tokens that
it sums over."""

Rows = np.ndarray
"""[cases, k] float64: k numbers for each case. A value depends on rows alone, so that resampling
rows is resampling cases."""


def first_column(rows: Rows) -> float:
    """Return the mean of the rows' first number: the value of most metrics."""
    return float(rows[:, 0].mean())


def _text(case: Case) -> list[str]:
    return [case["text"]]


def _pair(case: Case) -> list[str]:
    return [case["text"], case["other"]]


class Metric(Struct, frozen=True, kw_only=True):
    """One metric."""

    name: str
    output: Output
    columns: Mapping[str, Column]
    """The columns of a case that the metric reads; most pass `text` to the model."""
    rows: Callable[[Sequence[Case], Sequence[Sequence[Any]]], Rows]
    """From all cases, and the model's output for each text of each, to a row per case. Raises
    ValueError, with a clause, if a case cannot be evaluated."""
    inputs: Callable[[Case], list[str]] = _text
    """The texts of a case that are passed to the model."""
    value: Callable[[Rows], float] = first_column
    better: Better = "higher"
    share: bool = False
    """Whether rows are one number, 0 or 1, and the value is their mean."""
    package: tuple[str, str] | None = None
    """The Python module that `rows` needs, and its package on PyPI."""
    right: Callable[[Rows], Any] | None = None
    """Which cases were right; None if that is a matter of degree."""


_TEXT = Column("text")
_TEXTS = Column("texts")
_LABELLED = {"text": _TEXT, "label": _TEXT}
_EXPECTED = {"text": _TEXT, "expected": _TEXTS}
_OTHER = {"text": _TEXT, "other": _TEXT}
_RETRIEVAL = {"text": _TEXT, "relevant": _TEXTS, "others": Column("texts", optional=True)}


def _ones(rows: Rows) -> Any:
    return rows[:, 0] == 1.0


def _equal(rows: Rows) -> Any:
    return rows[:, 0] == rows[:, 1]


def _documents(case: Case) -> list[str]:
    return [case["text"], *case["relevant"], *case.get("others", [])]


def _rouge(name: str, kind: str) -> Metric:
    return Metric(
        name=name,
        output="text",
        columns=_EXPECTED,
        rows=lambda cases, outputs: scores.rouge(kind, name, cases, outputs),
        package=("rouge_score", "rouge-score"),
    )


def _ranked(name: str, score: Callable[[list[int], int], float]) -> Metric:
    return Metric(
        name=name,
        output="embedding",
        columns=_RETRIEVAL,
        inputs=_documents,
        rows=lambda cases, outputs: scores.ranking(score, cases, outputs),
    )


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="accuracy",
            output="labels",
            columns=_LABELLED,
            rows=scores.right_labels,
            share=True,
            right=_ones,
        ),
        Metric(
            name="f1_macro",
            output="labels",
            columns=_LABELLED,
            rows=scores.label_pairs,
            value=scores.f1_macro,
            right=_equal,
        ),
        Metric(
            name="f1_weighted",
            output="labels",
            columns=_LABELLED,
            rows=scores.label_pairs,
            value=scores.f1_weighted,
            right=_equal,
        ),
        Metric(
            name="exact_match",
            output="text",
            columns=_EXPECTED,
            rows=scores.exact_match,
            share=True,
            right=_ones,
        ),
        _rouge("rouge_1", "rouge1"),
        _rouge("rouge_2", "rouge2"),
        _rouge("rouge_l", "rougeL"),
        Metric(
            name="perplexity",
            output="likelihood",
            columns={"text": _TEXT},
            rows=scores.likelihoods,
            value=scores.perplexity,
            better="lower",
        ),
        Metric(
            name="cosine",
            output="embedding",
            columns=_OTHER,
            inputs=_pair,
            rows=scores.cosines,
        ),
        Metric(
            name="spearman",
            output="embedding",
            columns={**_OTHER, "score": Column("number")},
            inputs=_pair,
            rows=scores.cosines_and_scores,
            value=scores.spearman,
        ),
        _ranked("mrr", scores.reciprocal_rank),
        Metric(
            name="invariance",
            output="labels",
            columns=_OTHER,
            inputs=_pair,
            rows=scores.invariant,
            share=True,
            right=_ones,
        ),
        Metric(
            name="invariance_text",
            output="text",
            columns=_OTHER,
            inputs=_pair,
            rows=scores.invariant_texts,
            share=True,
            right=_ones,
        ),
        Metric(
            name="directional",
            output="labels",
            columns={**_OTHER, "label": _TEXT, "direction": _TEXT},
            inputs=_pair,
            rows=scores.directional,
            share=True,
            right=_ones,
        ),
        Metric(
            name="bias",
            output="labels",
            columns=_OTHER,
            inputs=_pair,
            rows=scores.label_gaps,
            better="lower",
        ),
        Metric(
            name="bias_preference",
            output="likelihood",
            columns=_OTHER,
            inputs=_pair,
            rows=scores.preferred,
            better="lower",
            share=True,
        ),
    )
}
"""The built-in metrics, besides ``recall_at_K`` and ``ndcg_at_K``; docs/testing.md describes
them."""

GROUP = "modpkg.metrics"
_AT = re.compile(r"(recall|ndcg)_at_([1-9][0-9]{0,3})")


def known_metrics() -> list[str]:
    """Return the names of all metrics, sorted."""
    at = ("recall_at_1", "recall_at_10", "ndcg_at_10")
    return sorted({*METRICS, *at, *entry_points(group=GROUP).names})


def check_metric(name: str, where: str) -> None:
    """Check that a metric is known, without importing the package that defines it.

    Raises:
        TestError: The metric is unknown; the error suggests a similar name.
    """
    if name in METRICS or _AT.fullmatch(name) or name in entry_points(group=GROUP).names:
        return
    names = known_metrics()
    near = hint(name, names) or f"; there are {', '.join(names)}"
    raise TestError("M713", where=where, metric=name, hint=near)


def check_package(name: str) -> None:
    """Check that the package that a metric needs is installed, before a model is loaded for it.

    Raises:
        MissingExtra: It is not installed.
    """
    metric = METRICS.get(name)
    if metric is not None and metric.package is not None:
        module, package = metric.package
        require_extra(module, what=f"Metric {name}", package=package, extra="eval")


def metric_version(name: str) -> str:
    """Return name and version of the package that defines a metric; empty for a built-in one."""
    if name in METRICS or _AT.fullmatch(name):
        return ""
    points = entry_points(group=GROUP, name=name)
    packages = [point.dist for point in points if point.dist is not None]
    return f"{packages[0].name} {packages[0].version}" if packages else "?"


def find_metric(name: str, where: str) -> Metric:
    """Return a metric.

    Raises:
        TestError: There is no such metric, or a package's entry point is not a `Metric`.
    """
    check_metric(name, where)
    if match := _AT.fullmatch(name):
        score = scores.recall if match[1] == "recall" else scores.ndcg
        return _ranked(name, lambda ranks, count: score(ranks, count, int(match[2])))
    metric = find(METRICS, GROUP, name)
    if not isinstance(metric, Metric):
        raise TestError(
            "M714", metric=name, reason=f"its entry point in {metric_version(name)} is not a Metric"
        )
    return metric
