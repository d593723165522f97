"""One model's tensors with the names that another one has for them.

Two copies of a model may be saved with other names: as transformers has it in memory, or as it had
it some versions ago. Where transformers is installed and reads both as the same parameters, they
are compared under the names of one of them. Its tensors are slices of the other's files, or joined
from several of them; a joined one is written into a temporary folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from modpkg.community.modules.view import ModuleView
from modpkg.core.digests import digest_bytes, digest_file
from modpkg.core.dtypes import DTYPE_BYTES
from modpkg.core.errors import ModpkgError
from modpkg.core.filenames import CONFIG
from modpkg.core.installed import TensorRef
from modpkg.core.records import MemoryTensor
from modpkg.core.regular_file import open_file
from modpkg.core.same_values import in_terms_of, is_computed
from modpkg.core.tensors import HashedTensor

_Place = tuple[str, int, int]
"""Elements of a tensor: its name, the first, and the one after the last."""


def config_of(view: ModuleView) -> dict[str, Any]:
    """Return a view's ``config.json``; empty if it has none that can be read."""
    if CONFIG not in view.files:
        return {}
    try:
        return msgspec.json.decode(view.read(CONFIG), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def as_named_by(
    tensors: Mapping[str, TensorRef],
    config: Mapping[str, Any],
    other: Mapping[str, HashedTensor],
    other_config: Mapping[str, Any],
    spool: Path,
) -> dict[str, TensorRef]:
    """Return a model's tensors with another one's names for them, where they are the same.

    A copy of a tied tensor that only one has makes no difference, see `in_terms_of`.

    Args:
        tensors: The model's tensors, on this machine.
        config: Its ``config.json``.
        other: The other model's tensors.
        other_config: Its ``config.json``; where one is empty, both have the same.
        spool: Folder for tensors that are joined from several.
    """
    own = {n for n in tensors.keys() - other.keys() if not is_computed(n, tensors[n])}
    wanted = {n for n in other.keys() - tensors.keys() if not is_computed(n, other[n])}
    result = dict(tensors)
    if own and wanted and (config or other_config):
        result = _renamed(tensors, config or other_config, other, other_config or config, spool)
    return in_terms_of(result, other, config, other_config)


def _renamed(
    tensors: Mapping[str, TensorRef],
    config: Mapping[str, Any],
    other: Mapping[str, HashedTensor],
    other_config: Mapping[str, Any],
    spool: Path,
) -> dict[str, TensorRef]:
    try:
        from modpkg.runtime.memory_layout import layout_of

        mine = layout_of("the copy", config, tensors)
        theirs = layout_of("the base", other_config, other)
    except ModpkgError:
        return dict(tensors)
    if mine is None or theirs is None:
        return dict(tensors)
    result, used = dict(tensors), set()
    for name, places in _parameters_of(theirs.tensors, other).items():
        if name in tensors:
            continue
        found = _places(places, mine.tensors, tensors)
        if sum(stop - start for _, start, stop in found) != math.prod(other[name].shape):
            continue
        if len({tensors[tensor].dtype for tensor, _, _ in found}) != 1:
            continue
        result[name] = _assembled(found, tensors, list(other[name].shape), spool)
        used |= {tensor for tensor, _, _ in found}
    for tensor in used - other.keys():
        del result[tensor]
    return result


def _parameters_of(
    parameters: Mapping[str, MemoryTensor], disk: Mapping[str, HashedTensor]
) -> dict[str, list[_Place]]:
    """Return the elements of parameters that each tensor on disk becomes, in its order."""
    spans: dict[str, list[tuple[int, _Place]]] = {}
    for name, parameter in parameters.items():
        if parameter.transposed:
            continue
        place = 0
        for piece in parameter.pieces:
            count = math.prod(disk[piece.tensor].shape)
            length = (count if piece.stop is None else piece.stop) - piece.start
            span = (piece.start, (name, place, place + length))
            spans.setdefault(piece.tensor, []).append(span)
            place += length
    return {name: [place for _, place in sorted(found)] for name, found in spans.items()}


def _places(
    wanted: Sequence[_Place],
    parameters: Mapping[str, MemoryTensor],
    disk: Mapping[str, TensorRef],
) -> list[_Place]:
    """Return the elements on disk that elements of parameters are made from."""
    result: list[_Place] = []
    for name, start, stop in wanted:
        parameter = parameters.get(name)
        if parameter is None or parameter.transposed:
            return []
        place = 0
        for piece in parameter.pieces:
            last = math.prod(disk[piece.tensor].shape) if piece.stop is None else piece.stop
            low, high = max(start, place), min(stop, place + last - piece.start)
            if low < high:
                first = piece.start + low - place
                if result and result[-1][0] == piece.tensor and result[-1][2] == first:
                    result[-1] = (piece.tensor, result[-1][1], first + high - low)
                else:
                    result.append((piece.tensor, first, first + high - low))
            place += last - piece.start
    return result


def _assembled(
    places: Sequence[_Place], tensors: Mapping[str, TensorRef], shape: list[int], spool: Path
) -> TensorRef:
    """Return the tensor that these elements are, one after the other."""
    name, start, stop = places[0]
    ref = tensors[name]
    size = DTYPE_BYTES[ref.dtype]
    if len(places) == 1:
        offset, length = ref.offset + start * size, (stop - start) * size
        whole = length == ref.length
        digest = ref.digest if whole else digest_file(Path(ref.file), offset, length)
        return structs.replace(ref, offset=offset, length=length, shape=shape, digest=digest)
    parts = []
    for tensor, first, last in places:
        source = tensors[tensor]
        with open_file(source.file) as file:
            file.seek(source.offset + first * size)
            parts.append(file.read((last - first) * size))
    data = b"".join(parts)
    digest = digest_bytes(data)
    path = spool / digest.rpartition(":")[2]
    path.write_bytes(data)
    return TensorRef(
        file=str(path), offset=0, length=len(data), dtype=ref.dtype, shape=shape, digest=digest
    )
