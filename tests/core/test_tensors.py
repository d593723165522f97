"""Equal bytes are one tensor only where dtype and shape are equal too."""

from __future__ import annotations

import pytest

from modpkg.core.digests import digest_bytes
from modpkg.core.installed import TensorRef
from modpkg.core.records import TensorEntry, TouchedTensor, canonical_json
from modpkg.core.tensors import byte_length, canonical_identity, identity_of, type_of, types_of

BYTES, OTHER = digest_bytes(b"a"), digest_bytes(b"b")
TENSOR = TouchedTensor("F16", [2, 3], BYTES)


def test_records_of_one_tensor_have_one_identity() -> None:
    entry = TensorEntry(dtype="F16", shape=[2, 3], digest=BYTES, pack=OTHER, offset=64, length=12)
    ref = TensorRef(file="p", offset=0, length=12, dtype="F16", shape=[2, 3], digest=BYTES)
    assert identity_of(TENSOR) == identity_of(entry) == identity_of(ref)
    assert len({identity_of(TENSOR), identity_of(entry), identity_of(ref)}) == 1


@pytest.mark.parametrize(
    "other",
    [
        TouchedTensor("BF16", [2, 3], BYTES),
        TouchedTensor("F16", [3, 2], BYTES),
        TouchedTensor("F16", [6], BYTES),
        TouchedTensor("F16", [2, 3], OTHER),
    ],
)
def test_another_dtype_shape_or_digest_is_another_tensor(other: TouchedTensor) -> None:
    assert identity_of(other) != identity_of(TENSOR)
    assert (type_of(other) == type_of(TENSOR)) == (other.digest == OTHER)


def test_a_type_is_a_dtype_and_a_shape() -> None:
    assert types_of({"w": TENSOR}) == {"w": ("F16", (2, 3))}
    assert identity_of(TENSOR).type == type_of(TENSOR)
    assert byte_length(TENSOR) == 12


def test_digests_of_tables_are_of_dtype_shape_and_digest() -> None:
    assert canonical_json(canonical_identity(TENSOR)) == f'["F16",[2,3],"{BYTES}"]'.encode()
