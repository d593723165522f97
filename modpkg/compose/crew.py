"""Those who compute a composition: threads, processes beside this one, or an executor elsewhere."""

from __future__ import annotations

import concurrent.futures
import hashlib
from collections.abc import Generator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.compose.workers import Workers
from modpkg.core import system
from modpkg.core.digests import Digest, digest_of
from modpkg.core.errors import ComposeError
from modpkg.core.regular_file import CutShort, open_unbuffered

if TYPE_CHECKING:
    from modpkg.compose.tensor import Job
    from modpkg.compose.work import RowRange, Task

_STEP = 4 << 20
"""Bytes of a result that are read and hashed at once."""


class Crew:
    """Who does the tasks of one composition."""

    def __init__(self, pool: Executor, count: int = 0, workers: Workers | None = None) -> None:
        """Tell who computes.

        Args:
            pool: Runs tasks, or waits for the processes that do.
            count: How many tasks run at once in this machine's memory; 0 if they run elsewhere:
                then each is one tensor.
            workers: Do the tasks, if these can be sent to them.
        """
        self._pool, self._count, self._workers = pool, count, workers
        self._begun: list[Future[tuple[Digest, ...]]] = []
        self._ended = False

    def make(self, jobs: Sequence[Job]) -> Generator[dict[str, Digest], None, None]:
        """Compute tensors, in the order of the jobs; yield digests by name as they are done.

        Raises:
            What `modpkg.compose.tensor.make_tensor` raises, after all tasks ended.
        """
        from modpkg.compose.work import (
            BATCH_BYTES,
            MakeTensors,
            batches,
            can_be_sent,
            is_large,
            parts_of,
        )

        if self._workers is not None and not can_be_sent(jobs):
            self._workers = None
        total = sum(job.place.length for job in jobs)
        made: dict[Future[tuple[Digest, ...]], tuple[str, ...]] = {}
        whole: list[Job] = []
        hashing = concurrent.futures.ThreadPoolExecutor(max(self._count, 1), "modpkg-hash")
        try:
            for job in jobs:
                share = total // max(self._count, 1)
                parts = parts_of(job, share) if self._count > 1 else []
                if parts:
                    made[hashing.submit(self._divided(job, parts).digest)] = (job.name,)
                elif self._count > 1 and job.inner and is_large(job, share):
                    made[hashing.submit(self._unfolded, job, share)] = (job.name,)
                else:
                    whole.append(job)
            for batch in batches(whole, BATCH_BYTES if self._workers is not None else 0):
                made[self._submit(batch[0].model, MakeTensors(batch))] = tuple(
                    job.name for job in batch
                )
            for future in concurrent.futures.as_completed(made):
                yield dict(zip(made[future], future.result(), strict=True))
        except BaseException as error:
            self._ended = True
            for future in [*made, *self._begun]:
                future.cancel()
            if self._workers is not None and not isinstance(error, Exception):
                self._workers.stop()
            concurrent.futures.wait([*made, *self._begun])
            raise
        finally:
            hashing.shutdown()

    def _submit(self, model: str, task: Task) -> Future[tuple[Digest, ...]]:
        from modpkg.compose.work import perform

        if self._ended:
            raise concurrent.futures.CancelledError
        if self._workers is not None:
            future = self._pool.submit(self._workers.perform, model, task)
        else:
            future = self._pool.submit(perform, task)
        self._begun.append(future)
        return future

    def _unfolded(self, job: Job, share: int) -> tuple[Digest, ...]:
        """Compute a large tensor, and before it what it is computed from, each in parts."""
        from modpkg.compose.unfolding import unfolded
        from modpkg.compose.work import MakeTensors, parts_of

        def make(each: Job) -> Digest:
            if parts := parts_of(each, share):
                return self._divided(each, parts).digest()[0]
            return self._submit(each.model, MakeTensors((each,))).result()[0]

        with unfolded(job, make=make) as whole:
            return (make(whole),)

    def _divided(self, job: Job, parts: Sequence[RowRange]) -> _Divided:
        """Begin with the parts of a tensor."""
        from modpkg.compose.work import CheckInput, MakePart

        refs = {ref.digest: ref for ref in job.computed.inputs() if ref.file not in job.trusted}
        checks = [
            self._submit(job.model, CheckInput(job.model, job.name, ref)) for ref in refs.values()
        ]
        made = [self._submit(job.model, MakePart(job, part.start, part.stop)) for part in parts]
        return _Divided(job, parts, made, checks)


class _Divided(NamedTuple):
    """A tensor whose parts are being computed."""

    job: Job
    parts: Sequence[RowRange]
    made: Sequence[Future[Any]]
    checks: Sequence[Future[Any]]
    """Of its inputs."""

    def digest(self) -> tuple[Digest, ...]:
        """Hash the parts in their order, each as soon as it is written, and return the digest."""
        state = hashlib.sha256()
        try:
            with open_unbuffered(Path(self.job.file)) as file:
                position = self.job.place.offset
                for part, made in zip(self.parts, self.made, strict=True):
                    made.result()
                    end = position + part.length
                    while position < end:
                        data = memoryview(bytearray(min(end - position, _STEP)))
                        if not (count := system.read_at(file.fileno(), data, position)):
                            raise CutShort(Path(self.job.file))
                        state.update(data[:count])
                        position += count
        except ComposeError:
            self._check()  # report damage first: it may be the cause
            raise
        self._check()
        return (digest_of(state),)

    def _check(self) -> None:
        for check in self.checks:
            check.result()
