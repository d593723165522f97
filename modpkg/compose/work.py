"""The tasks that a composition is divided into: what a thread or process is given to do.

Tasks and answers are records. A process is sent them as MessagePack, which has infinity and NaN,
and never code.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from modpkg.compose.composition import ComputedTensor
from modpkg.compose.exact import is_exact
from modpkg.compose.memory import BLOCK_ELEMENTS
from modpkg.compose.reducers import find_reducer
from modpkg.compose.tensor import Job, check_input, make_part
from modpkg.compose.unfolding import make_unfolded
from modpkg.core.digests import Digest
from modpkg.core.errors import CLASSES, ComposeError, ModpkgError
from modpkg.core.installed import TensorRef
from modpkg.core.printable import error_text

BATCH_BYTES = 1 << 22
"""Bytes of small tensors that are one task of a process: asking it takes time by itself."""
_BATCH_JOBS = 256
SPLIT_BYTES = 1 << 26
"""Bytes from which a tensor may be divided."""
_PART_BYTES = 1 << 24
"""Bytes of a part; a few more, up to whole blocks."""


class MakeTensors(Struct, frozen=True, tag=True):
    """Compute tensors; the answer has their digests."""

    jobs: tuple[Job, ...]


class MakePart(Struct, frozen=True, tag=True):
    """Compute some rows of a tensor; they are hashed elsewhere, and so are its inputs."""

    job: Job
    start: int
    stop: int


class CheckInput(Struct, frozen=True, tag=True):
    """Compare an input of a tensor with its digest."""

    model: str
    tensor: str
    ref: TensorRef


Task = MakeTensors | MakePart | CheckInput


def perform(task: Task) -> tuple[Digest, ...]:
    """Do a task, and return the digests of the tensors that it makes.

    Raises:
        What `modpkg.compose.unfolding.make_unfolded` raises.
    """
    if isinstance(task, MakeTensors):
        return tuple(make_unfolded(job) for job in task.jobs)
    if isinstance(task, MakePart):
        make_part(task.job, task.start, task.stop)
    else:
        check_input(task.model, task.tensor, task.ref)
    return ()


# How work is divided --------------------------------------------------------------------------


class RowRange(NamedTuple):
    """Rows of a tensor, and where they are in its bytes."""

    start: int
    stop: int
    length: int
    """Bytes."""


def parts_of(job: Job, share: int) -> list[RowRange]:
    """Return the parts in which a tensor is computed; none if it is computed as a whole.

    A tensor is divided if it is large, and larger than the share of all work that one core has:
    otherwise other tensors keep the cores busy meanwhile. Each part begins where a block does.
    """
    length = job.place.length
    if not is_large(job, share) or not _is_divisible(job):
        return []
    rows, columns = job.place.shape[0], math.prod(job.place.shape[1:])
    width = length // rows
    block = max(1, BLOCK_ELEMENTS // columns)
    step = max(1, _PART_BYTES // (width * block)) * block
    cuts = [*range(0, rows, step), rows]
    return [
        RowRange(start, stop, (stop - start) * width) for start, stop in itertools.pairwise(cuts)
    ]


def is_large(job: Job, share: int) -> bool:
    """Return whether a tensor is large, and larger than the share of all work of one core."""
    length = job.place.length
    return SPLIT_BYTES <= length > share and not job.device


def _is_divisible(job: Job) -> bool:
    """Return whether each element is a number of its own, whatever is computed beside it."""
    computed: ComputedTensor = job.computed
    if job.inner:
        return False  # each part would compute its inputs again, see `Crew`
    if not computed.terms and not computed.settings:
        return True  # only the dtype changes
    reducer = find_reducer(computed.reducer, job.model)
    measured = reducer.measure is not None and not reducer.across
    return not measured and is_exact(job.model, computed, reducer)


def batches(jobs: Sequence[Job], size: int) -> Iterator[tuple[Job, ...]]:
    """Yield the jobs in order; those that follow one another are together up to ``size`` bytes."""
    batch: list[Job] = []
    held = 0
    for job in jobs:
        if batch and (held + job.place.length > size or len(batch) == _BATCH_JOBS):
            yield tuple(batch)
            batch, held = [], 0
        batch.append(job)
        held += job.place.length
    if batch:
        yield tuple(batch)


# What a process is sent, and answers ----------------------------------------------------------


class TaskFailure(Struct, frozen=True, omit_defaults=True):
    """An error of a process: modpkg's own by its code, the system's by its number, or a text."""

    code: str = ""
    values: dict[str, Any] = {}
    errno: int | None = None
    filename: str | None = None
    reason: str = ""

    def error(self, model: str) -> Exception:
        """Return the error that the process met while it composed a model."""
        if self.code:
            return CLASSES[self.code](self.code, **self.values)
        if self.errno is not None:
            return OSError(self.errno, self.reason, self.filename)
        return ComposeError("M880", model=model, reason=self.reason)


class Answer(Struct, frozen=True, omit_defaults=True):
    """What a process answers to a task."""

    digests: tuple[Digest, ...] = ()
    failure: TaskFailure | None = None


def failure_of(error: Exception) -> TaskFailure:
    """Return what `TaskFailure.error` makes the same error of."""
    if isinstance(error, ModpkgError):
        return TaskFailure(code=error.code, values=error.values)
    if isinstance(error, OSError) and error.errno is not None:
        name = error.filename
        return TaskFailure(
            errno=error.errno,
            filename=None if name is None else str(name),
            reason=error.strerror or "",
        )
    return TaskFailure(reason=error_text(error))


_tasks: msgspec.msgpack.Decoder[Task] = msgspec.msgpack.Decoder(Task)
_answers = msgspec.msgpack.Decoder(Answer)


def encoded(message: Task | Answer) -> bytes:
    """Return a task or an answer as it is sent; what a record of an error lacks is sent as text."""
    return msgspec.msgpack.encode(message, enc_hook=str if isinstance(message, Answer) else None)


def decoded_task(data: bytes) -> Task:
    """Return a task that was sent."""
    return _tasks.decode(data)


def decoded_answer(data: bytes) -> Answer:
    """Return an answer that was sent."""
    return _answers.decode(data)


def can_be_sent(jobs: Sequence[Job]) -> bool:
    """Return whether a process is given the same by these jobs: their methods' parameters and what
    was measured may be of any type."""
    with contextlib.suppress(TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        tasks = (MakeTensors((job,)) for job in jobs)
        return all(decoded_task(encoded(task)) == task for task in tasks)
    return False
