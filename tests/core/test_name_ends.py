"""Names of tensors by how they end."""

from __future__ import annotations

from modpkg.core.name_ends import NamesByEnd


def test_names_are_found_whatever_comes_before_them() -> None:
    names = ["model.a.b", "a.b", "b", "c.ab", "x.model.a.b"]
    found = NamesByEnd(names)
    for tensor in [*names, "model.b", "ab", "d", "c", "y.x.model.a.b"]:
        expected = {
            name
            for name in names
            if name == tensor or name.endswith(f".{tensor}") or tensor.endswith(f".{name}")
        }
        assert set(found.like(tensor)) == expected
        assert len(found.like(tensor)) == len(expected)
