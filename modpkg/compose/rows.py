"""A tensor to make, gone through in blocks of rows: the base's, and what each term changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from typing import Any

import numpy as np

from modpkg.compose.arrays import Array, Stored, read_array, stored_dtype, widened
from modpkg.compose.composition import NOTHING, Made, Term
from modpkg.compose.memory import BLOCK_ELEMENTS, SAMPLE_RUNS, run_elements
from modpkg.compose.operators import find_operator
from modpkg.compose.reducers import Change
from modpkg.digests import digest_bytes
from modpkg.errors import PackError, StoreDamaged, UnknownOperator
from modpkg.installed import TensorRef
from modpkg.records import canonical_json


class Rows:
    """A tensor that is read by rows, and hashed on the way: what `Source` is to operators.

    Seen as a matrix, its first extent × all others; a vector has one column, so that long ones
    are cut into blocks too. It is read, and not mapped: a page that is mapped costs as much as
    what is computed in it.
    """

    def __init__(self, ref: TensorRef) -> None:
        self.shape = tuple(ref.shape)
        self.count = int(np.prod(self.shape, dtype=np.int64))
        self.rows = self.shape[0] if self.shape else 1
        self.columns = self.count // self.rows if self.count else 0
        self.height = min(self.rows, max(1, BLOCK_ELEMENTS // max(self.columns, 1)))
        """Rows of a block, but for the last."""
        self._ref, self._dtype = ref, stored_dtype(ref)
        self._file: FileIO | None = None
        self._state, self._hashed = hashlib.sha256(), 0
        self._last: tuple[int, int, Array] | None = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def take(self, start: int, stop: int) -> Array:
        """Return rows as float64 that may be overwritten.

        Raises:
            PackError: they cannot be read.
        """
        last, self._last = self._last, None
        if last is not None and last[:2] == (start, stop):
            return last[2]
        return self._read(start, stop)

    def peek(self, start: int, stop: int) -> Array:
        """Return rows as float64 that may not; the next `take` of the same gives them away."""
        if self._last is None or self._last[:2] != (start, stop):
            self._last = (start, stop, self._read(start, stop))
        return self._last[2]

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the first row of each block, and the one after its last."""
        for start in range(0, self.rows if self.count else 0, self.height):
            yield start, min(start + self.height, self.rows)

    def _read(self, start: int, stop: int) -> Array:
        return widened(self.stored(start, stop), self._ref)

    def stored(self, start: int, stop: int) -> Stored:
        """Return rows as they lie in the pack.

        Raises:
            PackError: they cannot be read.
        """
        width = self.columns * self._dtype.itemsize
        stored = np.empty((stop - start, self.columns), self._dtype)
        view = stored.reshape(-1).view(np.uint8).data
        self._fill(view, start * width)
        if start * width == self._hashed:
            self._state.update(view)
            self._hashed = stop * width
        return stored

    def _fill(self, view: memoryview, position: int) -> None:
        try:
            if self._file is None:
                self._file = FileIO(self._ref.file)
            self._file.seek(self._ref.offset + position)
            while view:
                count = self._file.readinto(view)
                if not count:
                    raise PackError(path=self._ref.file, reason="it ends before a tensor does")
                view = view[count:]
        except OSError as error:
            raise PackError(path=self._ref.file, reason=f"it cannot be read ({error})") from None

    def check(self, what: str) -> None:
        """Hash what has not been, and check the digest.

        Raises:
            StoreDamaged: it is another.
        """
        while self._hashed < self._ref.length:
            part = memoryview(bytearray(min(1 << 20, self._ref.length - self._hashed)))
            self._fill(part, self._hashed)
            self._state.update(part)
            self._hashed += len(part)
        if "sha256:" + self._state.hexdigest() != self._ref.digest:
            raise StoreDamaged(what=what, path=self._ref.file)


class Bound:
    """A term with its inputs."""

    def __init__(self, what: str, model: str, tensor: str, term: Term, made: Made) -> None:
        self.term = term
        self.read: dict[str, Rows] = {}
        """The inputs that come by rows."""
        self._whole: Mapping[str, Any] = {}
        self._torch: Any = None
        self._source: Any = None
        if term.op != NOTHING:
            operator = find_operator(term.op, model)
            if operator.delta is None:
                raise UnknownOperator(where=model, op=term.op, known="those with a delta")
            self._delta = operator.delta
            whole: dict[str, Any] = {}
            for role, ref in term.inputs.items():
                if role in operator.by_rows:
                    self.read[role] = Rows(ref)
                else:
                    whole[role] = read_array(ref, what)
            if not operator.arrays:
                from modpkg.compose.torches import from_array, mapped, one_thread

                one_thread()
                self._torch = from_array
                self._source = mapped(made.source)
                whole = {role: from_array(array) for role, array in whole.items()}
            self._whole = whole
            self._prepare = operator.prepare
        self.importance = None if term.importance is None else Rows(term.importance)
        about = [tensor, {key: value for key, value in term.account().items() if key in _SOURCE}]
        self._key = digest_bytes(canonical_json(about)).encode()

    def prepare(self, base: Rows) -> None:
        """Let the operator work out once what it needs for all rows."""
        if self.term.op != NOTHING:
            if self._torch is None:
                self._source = base
            if self._prepare is not None:
                self._whole = dict(self._prepare(self._whole, self.term, self._source))

    def delta(self, start: int, stop: int, columns: int) -> Array:
        """Return rows of the change, the term's weight in it, as float64."""
        if self.term.op == NOTHING:
            return np.broadcast_to(np.zeros(()), (stop - start, columns))
        inputs = dict(self._whole)
        for role, rows in self.read.items():
            values = rows.take(start, stop)
            inputs[role] = values if self._torch is None else self._torch(values)
        found = self._delta(inputs, self.term, start, stop, self._source)
        return np.asarray(found).reshape(stop - start, columns)

    def change(self, start: int, stop: int, columns: int) -> Change:
        """Return rows of the change as a reducer sees it."""
        importance: Any = self.term.settings.get("importance", 1.0)
        if self.importance is not None:
            importance = self.importance.take(start, stop)
        return Change(
            delta=self.delta(start, stop, columns),
            weight=self.term.scale,
            parameters=self.term.settings,
            key=self._key,
            first=start * columns,
            importance=importance,
        )


_SOURCE = ("op", "parameters", "inputs")
"""What a random stream is named by: the source, however it is weighed."""


class TensorBlocks:
    """See `modpkg.compose.reducers.Blocks`. A context: it holds files open.

    Raises:
        PackError: an input cannot be read. StoreDamaged: one that is read whole is not what it was.
    """

    def __init__(self, model: str, tensor: str, made: Made) -> None:
        self._what = f"What {tensor!r} of {model} is made of"
        self.base = Rows(made.source)
        self.terms = [Bound(self._what, model, tensor, term, made) for term in made.terms]
        try:
            for term in self.terms:
                term.prepare(self.base)
        except BaseException:
            self.close()
            raise
        self.count = self.base.count
        self.steps: Sequence[dict[str, Any]] = [term.settings for term in made.terms]
        self.columns, self.ranges = self.base.columns, self.base.ranges

    def __enter__(self) -> TensorBlocks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for rows in self._read():
            rows.close()

    def _read(self) -> Iterator[Rows]:
        yield self.base
        for term in self.terms:
            yield from term.read.values()
            if term.importance is not None:
                yield term.importance

    def check(self) -> None:
        """Check what was read by rows against its digests.

        Raises:
            StoreDamaged
        """
        for rows in self._read():
            rows.check(self._what)

    def block(self, start: int, stop: int) -> tuple[Array, list[Change]]:
        """Return rows of the base that may be overwritten, and the changes to them."""
        changes = [term.change(start, stop, self.columns) for term in self.terms]
        return self.base.take(start, stop), changes

    def __call__(self) -> Iterator[tuple[Array, list[Change]]]:
        return (self.block(start, stop) for start, stop in self.ranges())

    def deltas(self, index: int) -> Iterator[Array]:
        for start, stop in self.ranges():
            yield self.terms[index].delta(start, stop, self.columns)

    def sample(self, index: int) -> Array:
        wanted, rows = run_elements(self.count), self.base.rows
        if self.count <= SAMPLE_RUNS * wanted:
            ranges = list(self.ranges())
        else:
            size = max(1, wanted // self.columns)
            last = max(rows - size, 0)
            starts = sorted({last * run // (SAMPLE_RUNS - 1) for run in range(SAMPLE_RUNS)})
            ranges = [(start, min(start + size, rows)) for start in starts]
        term = self.terms[index]
        parts = [term.delta(start, stop, self.columns).reshape(-1) for start, stop in ranges]
        return np.concatenate(parts) if parts else np.empty(0)


class ModelBlocks:
    """All tensors of a model in one, for what is measured over a model."""

    def __init__(self, model: str, made: Sequence[tuple[str, Made]]) -> None:
        self._model, self._made = model, made
        self.count = sum(int(np.prod(item.source.shape)) for _, item in made)
        self.steps: Sequence[dict[str, Any]] = [term.settings for term in made[0][1].terms]

    def _tensors(self) -> Iterator[TensorBlocks]:
        for name, item in self._made:
            with TensorBlocks(self._model, name, item) as tensor:
                yield tensor

    def __call__(self) -> Iterator[tuple[Array, list[Change]]]:
        for tensor in self._tensors():
            yield from tensor()

    def deltas(self, index: int) -> Iterator[Array]:
        for tensor in self._tensors():
            yield from tensor.deltas(index)

    def sample(self, index: int) -> Array:
        """Return as much of each tensor as it has of the model."""
        found = []
        for tensor in self._tensors():
            values = tensor.sample(index)
            wanted = max(1, (1 << 20) * tensor.count // max(self.count, 1))
            found.append(values[:: max(1, values.size // wanted)] if tensor.count else values)
        return np.concatenate(found)
