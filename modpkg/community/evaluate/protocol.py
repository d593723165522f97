"""What one test gave on one composition, case by case."""

from __future__ import annotations

from msgspec import Struct

from modpkg.community.evaluate.report import Better
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.records import canonical_json

DECIMALS = 6
"""Rows are rounded to so many: what differs later than that is the order of a sum, no outcome."""


class Outcome(Struct, frozen=True, kw_only=True):
    """What was measured; whether it is good enough is the test's business."""

    value: float
    low: float
    high: float
    """Ends of the value's 95 % interval."""
    better: Better
    """Which way the metric is better; a test with one bound says so itself."""
    rows: list[list[float]]
    """By case, what it gave; see `modpkg.community.evaluate.metrics.Rows`."""
    right: list[bool] | None = None
    """By case, whether it was right; None where that is a matter of degree."""

    @property
    def digest(self) -> Digest:
        """Digest of what each case gave."""
        return digest_bytes(canonical_json([self.rows, self.right]))


class Measurement(Struct, frozen=True, kw_only=True):
    """What the process that runs models is asked to measure."""

    folder: str
    """The model's, as an environment has it; its tensors' files are absolute."""
    metric: str
    test: str
    """The test's name, for errors."""
    cases: str
    """Path of the file of cases."""
    label: str
    """Their path as the manifest has it; its ending says how they are written."""
    seed: int


class Comparison(Struct, frozen=True, kw_only=True):
    """Two outcomes of one test, whose difference is asked for."""

    metric: str
    test: str
    before: list[list[float]]
    after: list[list[float]]
    seed: int


class Difference(Struct, frozen=True):
    """How far a value moved from before to after, with its 95 % interval over pairs of cases."""

    value: float
    low: float
    high: float


class Request(Struct, frozen=True, omit_defaults=True):
    """One line to the process; one of the two is set."""

    measure: Measurement | None = None
    compare: Comparison | None = None


class Failure(Struct, frozen=True):
    """An error by its code; "" for anything else that was raised, with its reason."""

    code: str
    values: dict[str, str]


class Answer(Struct, frozen=True, omit_defaults=True):
    """One line from the process; the last line of an answer has one of the last three."""

    ready: bool = False
    total: int | None = None
    """Texts that the model will run on."""
    done: int = 0
    """How many more it has run on."""
    outcome: Outcome | None = None
    difference: Difference | None = None
    failure: Failure | None = None
