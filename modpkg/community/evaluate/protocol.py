"""Messages between modpkg and the process that runs models, and the outcomes they carry."""

from __future__ import annotations

from msgspec import Struct

from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.records import canonical_json
from modpkg.core.report import Better

DECIMALS = 6
"""Rows are rounded to this many: later digits depend on the order of a sum."""


class TestOutcome(Struct, frozen=True, kw_only=True):
    """What one test measured on one model; its bounds are not considered."""

    value: float
    low: float
    """Lower end of the value's 95 % confidence interval."""
    high: float
    """Upper end of the value's 95 % confidence interval."""
    better: Better
    """Which values of the metric are better; a test with one bound overrides it."""
    rows: list[list[float]]
    """By case, its numbers; see `modpkg.community.evaluate.metrics.Rows`."""
    right: list[bool] | None = None
    """By case, whether it was right; None where the metric is a matter of degree."""

    @property
    def digest(self) -> Digest:
        """Digest of the outcome of each case."""
        return digest_bytes(canonical_json([self.rows, self.right]))


class ValueChange(Struct, frozen=True):
    """The change of a test's value between two models, with its 95 % interval over paired cases."""

    value: float
    low: float
    high: float


class Measurement(Struct, frozen=True, kw_only=True):
    """A request to run a test on a model."""

    folder: str
    """The installed model's; its tensors' files are absolute paths."""
    metric: str
    test: str
    """The test's name, for errors."""
    cases: str
    """Path of the file of cases."""
    label: str
    """That path as the manifest has it; its suffix gives the format."""
    seed: int


class Comparison(Struct, frozen=True, kw_only=True):
    """A request for the difference of two outcomes of one test."""

    metric: str
    test: str
    before: list[list[float]]
    after: list[list[float]]
    seed: int


class WorkerRequest(Struct, frozen=True, omit_defaults=True):
    """One line to the process; exactly one field is set."""

    measure: Measurement | None = None
    compare: Comparison | None = None


class WorkerFailure(Struct, frozen=True):
    """An error, by its code; any other exception has the code "" and a ``reason``."""

    code: str
    values: dict[str, str]


class WorkerAnswer(Struct, frozen=True, omit_defaults=True):
    """One line from the process; the last one for a request has one of the last three fields."""

    ready: bool = False
    total: int | None = None
    """Number of texts that the model will run on."""
    done: int = 0
    """Number of texts finished since the previous line."""
    outcome: TestOutcome | None = None
    difference: ValueChange | None = None
    failure: WorkerFailure | None = None
