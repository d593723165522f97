"""Measuring: a model's outputs for a test's cases, and what its metric makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modpkg.community.evaluate.cases import Case, read_cases
from modpkg.community.evaluate.metrics import Metric, Output, find_metric
from modpkg.community.evaluate.protocol import (
    DECIMALS,
    Comparison,
    Difference,
    Measurement,
    Outcome,
)
from modpkg.community.evaluate.statistics import bootstrap, paired_bootstrap, wilson
from modpkg.core.errors import TestError
from modpkg.core.installed import read_model
from modpkg.runtime.batches import classify, embed_texts, generate, likelihoods
from modpkg.runtime.load import load_model
from modpkg.runtime.pooling import embedder
from modpkg.runtime.tasks import WRITING, inferred_task, load_tokenizer

Tick = Callable[[int], None]

_NEEDS: dict[Output, str] = {
    "labels": "a model that classifies",
    "text": "a model that writes",
    "embedding": "a model that embeds",
    "likelihood": "a causal language model",
}


class LoadedModel:
    """A model that is run, with its tokenizer."""

    def __init__(self, folder: Path) -> None:
        record = read_model(folder)
        self.name = record.name
        self.folder = folder
        self.model: Any = load_model(folder, folder)
        self.task = record.task or {"kind": inferred_task(record.name, self.model, folder)}
        self.tokenizer = load_tokenizer(record.name, folder)
        self._embed = embedder(record, folder, folder)
        self._known: dict[tuple[Output, tuple[str, ...]], list[Any]] = {}

    def gives(self, output: Output) -> bool:
        """Say whether this is a model that has such an output."""
        kind = self.task["kind"]
        if output == "likelihood":
            return type(self.model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
        if output == "text":
            return kind in WRITING
        return kind == {"labels": "text-classification", "embedding": "feature-extraction"}[output]

    def outputs(self, output: Output, texts: list[str], tick: Tick) -> list[Any]:
        """Return the output for each text; see `modpkg.community.evaluate.metrics.Output`.

        The same texts in the same order are run on once. Others are not mixed with those that
        are known: what a text is batched with moves the last bits of what it gives.
        """
        key = (output, tuple(texts))
        if key not in self._known:
            self._known[key] = self._run(output, texts, tick)
        return self._known[key]

    def _run(self, output: Output, texts: list[str], tick: Tick) -> list[Any]:
        model, tokenizer, task = self.model, self.tokenizer, self.task
        with torch.inference_mode():
            if output == "labels":
                return list(classify(model, tokenizer, task, texts, warn=_quiet, tick=tick))
            if output == "text":
                return list(generate(model, tokenizer, task, texts, warn=_quiet, tick=tick))
            if output == "likelihood":
                return list(likelihoods(model, tokenizer, texts, warn=_quiet, tick=tick))
            vectors = embed_texts(
                self._embed, model, tokenizer, task, texts, warn=_quiet, tick=tick
            )
            return [vector.numpy() for vector in vectors]


def _quiet(message: str) -> None:
    """Texts that are cut are cut on every side that is compared."""


def measure(
    model: LoadedModel, asked: Measurement, start: Callable[[int], None], tick: Tick
) -> Outcome:
    """Run a model on a test's cases.

    ``start`` is told how many texts there are, ``tick`` how many more are done.

    Raises:
        TestError, MissingExtra.
        TestError: the model gives NaN or infinity; names the text.
    """
    where = f"test {asked.test!r}"
    metric = find_metric(asked.metric, where)
    cases = read_cases(Path(asked.cases).read_bytes(), asked.label, metric.columns)
    if not model.gives(metric.output):
        raise TestError(
            "M715", test=where, metric=metric.name, needs=_NEEDS[metric.output], name=model.name
        )
    torch.manual_seed(asked.seed)
    wanted = [metric.inputs(case) for case in cases]
    texts = list(dict.fromkeys(text for one in wanted for text in one))
    start(len(texts))
    given = dict(zip(texts, model.outputs(metric.output, texts, tick), strict=True))
    for text, output in given.items():
        if not _finite(output):
            raise TestError("M716", name=model.name, test=asked.test, text=repr(text[:60]))
        if metric.output == "likelihood" and output[1] < 1:
            raise TestError(
                "M712", where=asked.label, reason=f"{text[:60]!r} is too short to have any"
            )
    rows = _rows(metric, asked, cases, [[given[text] for text in one] for one in wanted])
    return judged(metric, asked.test, rows, asked.seed)


def _finite(output: Any) -> bool:
    if isinstance(output, str):
        return True
    if isinstance(output, dict):
        return all(map(math.isfinite, output.values()))
    return bool(np.isfinite(output).all())


def _rows(
    metric: Metric, asked: Measurement, cases: list[Case], outputs: list[list[Any]]
) -> np.ndarray:
    try:
        rows = np.asarray(metric.rows(cases, outputs), dtype=np.float64)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise TestError(
            "M712", where=f"{asked.label} (metric {metric.name})", reason=str(error)
        ) from None
    if rows.ndim != 2 or len(rows) != len(cases) or not np.isfinite(rows).all():
        raise TestError(
            "M714", metric=metric.name, reason="it did not give finite numbers for every case"
        )
    rounded: np.ndarray = np.round(rows, DECIMALS) + 0.0  # no -0.0, which is another text
    return rounded


def judged(metric: Metric, test: str, rows: np.ndarray, seed: int) -> Outcome:
    """Return the value of rows, its interval, and which cases were right."""
    value = float(metric.value(rows))
    if not math.isfinite(value):
        reason = f"test {test!r} has no value by it (are all cases or outputs the same?)"
        raise TestError("M714", metric=metric.name, reason=reason)
    if metric.share:
        low, high = wilson(int(rows[:, 0].sum()), len(rows))
    else:
        low, high = bootstrap(rows, metric.value, seed)
    right = None if metric.right is None else [bool(one) for one in metric.right(rows)]
    value, low, high = (round(number, DECIMALS) + 0.0 for number in (value, low, high))
    return Outcome(
        value=value, low=low, high=high, better=metric.better, rows=rows.tolist(), right=right
    )


def compare(asked: Comparison) -> Difference:
    """Return how far the value moved, with the interval over pairs of cases.

    Raises:
        TestError.
    """
    metric = find_metric(asked.metric, f"test {asked.test!r}")
    before, after = np.asarray(asked.before), np.asarray(asked.after)
    value = float(metric.value(after)) - float(metric.value(before))
    low, high = paired_bootstrap(before, after, metric.value, asked.seed)
    return Difference(*(round(number, DECIMALS) + 0.0 for number in (value, low, high)))
