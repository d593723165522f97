"""The positions of a release's tensors, and what encoded ones are decoded on: consistency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from msgspec import UNSET, structs

from modpkg.core.bounds import DELTA_CHAIN
from modpkg.core.dtypes import DTYPE_BYTES, bits_of
from modpkg.core.records import ReleaseRecord, TensorEntry
from modpkg.core.tensors import TensorIdentity, byte_length, identity_of, type_of


def labelled_entries(record: ReleaseRecord) -> Iterator[tuple[str, TensorEntry]]:
    """Yield every tensor and source of a release, with a label for messages."""
    for name, entry in record.tensors.items():
        yield f"tensor {name!r}", entry
    for digest, entry in sources_of(record).items():
        yield f"source {digest}", entry


def sources_of(record: ReleaseRecord) -> Mapping[str, TensorEntry]:
    """Return a release's sources; empty if it has none."""
    return {} if record.sources is UNSET else record.sources


def entries_by_identity(record: ReleaseRecord) -> dict[TensorIdentity, TensorEntry]:
    """Return one entry for each tensor and source of a release."""
    return {identity_of(entry): entry for _, entry in labelled_entries(record)}


def base_of(entry: TensorEntry) -> TensorIdentity | None:
    """Return the tensor that an encoded one is decoded on; None for others."""
    if entry.encoding is None or entry.encoding.base is None:
        return None
    return TensorIdentity(entry.encoding.base, *type_of(entry))


def chain_of(
    entry: TensorEntry, find: Callable[[TensorIdentity], TensorEntry | None]
) -> list[TensorEntry]:
    """Return the earlier tensors that ``entry`` is decoded on, the nearest first.

    Raises:
        ValueError: The chain is longer than `DELTA_CHAIN`, or incomplete; the message is a clause.
    """
    chain: list[TensorEntry] = []
    while (base := base_of(entry)) is not None:
        if len(chain) == DELTA_CHAIN:
            raise ValueError(f"is decoded on more than {DELTA_CHAIN} earlier tensors")
        if (earlier := find(base)) is None:
            raise ValueError(
                "is decoded on something that is not a tensor or source of its dtype and shape"
            )
        chain.append(earlier)
        entry = earlier
    return chain


def place_problem(record: ReleaseRecord) -> str | None:
    """Return the problem with a record's packs, tensors and sources, or None."""
    for what, entry in labelled_entries(record):
        if (reason := _entry_problem(entry, record.packs)) is not None:
            return f"{what} {reason}"
    sources = sources_of(record)
    named = {entry.digest for entry in record.tensors.values()}
    for digest, entry in sources.items():
        if entry.digest != digest:
            return f"source {digest} has digest {entry.digest}"
        if digest in named:
            return f"source {digest} is also a named tensor"
    by_identity = entries_by_identity(record)
    by_digest = {entry.digest: entry for entry in by_identity.values()}
    used: set[str] = set()
    for what, entry in labelled_entries(record):
        other = by_digest[entry.digest]
        if entry.encoding is None and other.encoding is None:
            pass
        elif structs.replace(entry, shape=other.shape) != other:
            return f"{what} is equal to another one, but encoded differently"
        try:
            used.update(earlier.digest for earlier in chain_of(entry, by_identity.get))
        except ValueError as error:
            return f"{what} {error}"
    if unused := sorted(sources.keys() - used):
        return f"no tensor is decoded on source {unused[0]}"
    if idle := sorted(record.packs.keys() - {e.pack for _, e in labelled_entries(record)}):
        return f"no tensor is in pack {idle[0]}"
    return None


def _entry_problem(entry: TensorEntry, packs: Mapping[str, int]) -> str | None:
    """Return the problem with a single entry, or None."""
    if entry.pack not in packs:
        return "is in a pack that is not listed"
    if entry.dtype not in DTYPE_BYTES:
        return f"has unknown dtype {entry.dtype!r}"
    if entry.offset + entry.length > packs[entry.pack]:
        return "is outside of its pack"
    length = byte_length(entry)
    if bits_of(entry.dtype, entry.shape) % 8:
        return f"has shape {list(entry.shape)}, which is not whole bytes of {entry.dtype}"
    if entry.encoding is None:
        if entry.length != length:
            return f"has {entry.length} bytes, not the {length} that its shape needs"
    elif (entry.encoding.base is None) != (entry.encoding.method == "planes"):
        return f"has a base that does not match {entry.encoding.method!r}"
    elif not 0 < entry.length < length:
        return f"takes {entry.length} encoded bytes for {length}"
    return None
