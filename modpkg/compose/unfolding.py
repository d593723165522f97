"""Computing the tensors of composed modules that a tensor needs, one at a time, into scratch files.

Each is computed as it is for the result of its own composition, and rounded as there, so that the
outer result is the one that composing step by step gives. It takes the disk of one tensor, until
what needs it is computed; no module is written as a whole.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import structs

from modpkg.compose.composition import ComputedTensor, InnerTensor, is_inner
from modpkg.compose.nested import files_of, reached, substituted
from modpkg.compose.tensor import Job, make_tensor
from modpkg.core import system
from modpkg.core.digests import Digest, digest_file
from modpkg.core.errors import PatchError
from modpkg.core.installed import TensorRef
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.packs import PackTensor


def make_unfolded(job: Job) -> Digest:
    """Compute a tensor with all that it is computed from; see `make_tensor`.

    Raises:
        What `make_tensor` raises.
        OSError: The disk is full, for example.
    """
    with unfolded(job) as whole:
        return make_tensor(whole)


@contextlib.contextmanager
def unfolded(
    job: Job, folder: Path | None = None, make: Callable[[Job], Digest] = make_tensor
) -> Iterator[Job]:
    """Yield a job whose inputs are all stored, in ``folder`` or beside its result, for a while.

    ``make`` computes a tensor whose inputs are stored, as `make_tensor` does.

    Raises:
        What `make_tensor` raises, and OSError, if the disk is full for example.
    """
    if not job.inner:
        yield job
        return
    near = (folder or Path(job.file).parent) / "inner"
    order = reached(files_of(job.computed), job.inner)
    uses = Counter(_files(job.computed))
    for item in order.values():
        uses.update(_files(_computed(item)))
    made: dict[str, TensorRef] = {}
    try:
        for file, item in order.items():
            inner = _computed(item)
            made[file] = _made(job, item, made, temporary_sibling(near), make)
            for used in _files(inner):
                uses[used] -= 1
                if not uses[used]:
                    discard(Path(made[used].file))
        yield _with_inputs(job, job.computed, made)
    finally:
        for ref in made.values():
            discard(Path(ref.file))


def _files(computed: ComputedTensor) -> set[str]:
    return {ref.file for ref in computed.inputs() if is_inner(ref)}


def _computed(item: InnerTensor) -> ComputedTensor:
    if item.computed is None:
        raise AssertionError(f"the router {item.name} of {item.model} is not stored")
    return item.computed


def _made(
    job: Job,
    item: InnerTensor,
    made: dict[str, TensorRef],
    path: Path,
    make: Callable[[Job], Digest],
) -> TensorRef:
    """Compute a tensor into a file of its own, which is removed if that fails."""
    computed = _computed(item)
    inner = Job(
        model=item.model,
        name=item.name,
        computed=computed,
        file=str(path),
        place=PackTensor(computed.dtype, computed.shape, 0, computed.length),
        measured=item.measured,
        trusted=job.trusted,
        device=job.device,
        scratch=True,
    )
    try:
        with open(path, "xb", buffering=0) as file:
            system.reserve(file.fileno(), computed.length)
        digest = make(_with_inputs(inner, computed, made))
        for expected in item.expected:
            expected.check(digest)
    except BaseException:
        discard(path)
        raise
    return TensorRef(
        file=str(path),
        offset=0,
        length=computed.length,
        dtype=computed.dtype,
        shape=list(computed.shape),
        digest=digest,
    )


def _with_inputs(job: Job, computed: ComputedTensor, made: dict[str, TensorRef]) -> Job:
    """Return a job with its inputs as they were computed.

    Raises:
        PatchError: A patch was made for other values of one.
    """
    for ref in computed.inputs():
        place = made.get(ref.file)
        if place is None or ref.length == place.length:
            continue
        if digest_file(Path(place.file), 0, ref.length) != ref.digest:  # a patch's first rows of it
            reason = f"{job.name!r} does not match the slice of the base's tensor that it names"
            raise PatchError("M730", patch=f"A module of {job.model}", reason=reason)
    files = {place.file for place in made.values()}
    return structs.replace(
        job, computed=substituted(computed, made), inner={}, trusted=job.trusted | files
    )
