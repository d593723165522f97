"""Running a model on a test's cases, and computing its metric from the outputs."""

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
    Measurement,
    TestOutcome,
    ValueChange,
)
from modpkg.community.evaluate.statistics import bootstrap, paired_bootstrap, wilson
from modpkg.core.bounds import CASES_BYTES
from modpkg.core.errors import TestError
from modpkg.core.regular_file import read_file
from modpkg.runtime.batches import classify, embed_texts, generate, likelihoods
from modpkg.runtime.pipeline import open_pipeline
from modpkg.runtime.sampling import GREEDY, generation_of
from modpkg.runtime.task_kinds import WRITING

Tick = Callable[[int], None]

_NEEDS: dict[Output, str] = {
    "labels": "a model that classifies",
    "text": "a model that writes",
    "embedding": "a model that embeds",
    "likelihood": "a causal language model",
}


class LoadedModel:
    """An installed model, loaded with its tokenizer."""

    def __init__(self, folder: Path) -> None:
        pipeline = open_pipeline(folder, folder)
        self.name, self.folder = pipeline.name, folder
        self.model, self.tokenizer, self.task = pipeline.model, pipeline.tokenizer, pipeline.task
        self._kind = pipeline.kind
        self._embed = pipeline.embed
        self._outputs: dict[tuple[Output, tuple[str, ...]], list[Any]] = {}

    def has_output(self, output: Output) -> bool:
        """Return whether the model is of a kind that has such an output."""
        kind = self._kind
        if output == "likelihood":
            return type(self.model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
        if output == "text":
            return kind in WRITING
        return kind == {"labels": "text-classification", "embedding": "feature-extraction"}[output]

    def outputs(self, output: Output, texts: list[str], tick: Tick) -> list[Any]:
        """Return the output for each text; see `modpkg.community.evaluate.metrics.Output`.

        The same texts in the same order are run only once. Other lists share nothing with them: the
        last bits of an output depend on what its text is batched with.
        """
        key = (output, tuple(texts))
        if key not in self._outputs:
            self._outputs[key] = self._run(output, texts, tick)
        return self._outputs[key]

    def _run(self, output: Output, texts: list[str], tick: Tick) -> list[Any]:
        model, tokenizer, task = self.model, self.tokenizer, self.task
        with torch.inference_mode():
            if output == "labels":
                return list(classify(model, tokenizer, task, texts, warn=_quiet, tick=tick))
            if output == "text":
                how = generation_of(GREEDY, task, model.generation_config)
                found = generate(model, tokenizer, task, texts, how=how, warn=_quiet, tick=tick)
                return list(found)
            if output == "likelihood":
                return list(likelihoods(model, tokenizer, texts, warn=_quiet, tick=tick))
            vectors = embed_texts(
                self._embed, model, tokenizer, task, texts, warn=_quiet, tick=tick
            )
            return [vector.numpy() for vector in vectors]


def _quiet(message: str) -> None:
    """Ignore warnings of truncated texts: both sides of a comparison truncate alike."""


def measure(
    model: LoadedModel, request: Measurement, start: Callable[[int], None], tick: Tick
) -> TestOutcome:
    """Run a model on a test's cases.

    ``start`` is called with the number of texts, ``tick`` with the number finished since.

    Raises:
        TestError: Cases or metric cannot be used, or do not fit the model; or the model gives NaN
            or infinity for a text.
        MissingExtra: The metric or the format of the cases needs a package.
    """
    where = f"test {request.test!r}"
    metric = find_metric(request.metric, where)
    cases = read_cases(read_file(request.cases, CASES_BYTES), request.label, metric.columns)
    if not model.has_output(metric.output):
        raise TestError(
            "M715", test=where, metric=metric.name, needs=_NEEDS[metric.output], name=model.name
        )
    torch.manual_seed(request.seed)
    inputs = [metric.inputs(case) for case in cases]
    texts = list(dict.fromkeys(text for case_texts in inputs for text in case_texts))
    start(len(texts))
    outputs = dict(zip(texts, model.outputs(metric.output, texts, tick), strict=True))
    for text, output in outputs.items():
        if not _finite(output):
            raise TestError("M716", name=model.name, test=request.test, text=repr(text[:60]))
        if metric.output == "likelihood" and output[1] < 1:
            raise TestError(
                "M712",
                where=request.label,
                reason=f"{text[:60]!r} is too short to have a likelihood",
            )
    rows = _rows(metric, request, cases, [[outputs[text] for text in texts] for texts in inputs])
    return _outcome(metric, request.test, rows, request.seed)


def _finite(output: Any) -> bool:
    if isinstance(output, str):
        return True
    if isinstance(output, dict):
        return all(map(math.isfinite, output.values()))
    return bool(np.isfinite(output).all())


def _rows(
    metric: Metric, request: Measurement, cases: list[Case], outputs: list[list[Any]]
) -> np.ndarray:
    try:
        rows = np.asarray(metric.rows(cases, outputs), dtype=np.float64)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise TestError(
            "M712", where=f"{request.label} (metric {metric.name})", reason=str(error)
        ) from None
    if rows.ndim != 2 or len(rows) != len(cases) or not np.isfinite(rows).all():
        raise TestError(
            "M714", metric=metric.name, reason="it did not return finite numbers for every case"
        )
    rounded: np.ndarray = np.round(rows, DECIMALS) + 0.0  # -0.0 would be written differently
    return rounded


def _outcome(metric: Metric, test: str, rows: np.ndarray, seed: int) -> TestOutcome:
    value = float(metric.value(rows))
    if not math.isfinite(value):
        reason = f"it is undefined for test {test!r} (are all cases or outputs equal?)"
        raise TestError("M714", metric=metric.name, reason=reason)
    if metric.share:
        low, high = wilson(int(rows[:, 0].sum()), len(rows))
    else:
        low, high = bootstrap(rows, metric.value, seed)
    right = None if metric.right is None else [bool(one) for one in metric.right(rows)]
    value, low, high = (round(number, DECIMALS) + 0.0 for number in (value, low, high))
    return TestOutcome(
        value=value, low=low, high=high, better=metric.better, rows=rows.tolist(), right=right
    )


def compare(request: Comparison) -> ValueChange:
    """Return how far the value moved, with its interval over paired cases.

    Raises:
        TestError: There is no such metric.
    """
    metric = find_metric(request.metric, f"test {request.test!r}")
    before, after = np.asarray(request.before), np.asarray(request.after)
    value = float(metric.value(after)) - float(metric.value(before))
    low, high = paired_bootstrap(before, after, metric.value, request.seed)
    return ValueChange(*(round(number, DECIMALS) + 0.0 for number in (value, low, high)))
