"""The bounds in ``docs/security.md`` are those of the code, and each of them is used."""

from __future__ import annotations

from modpkg.core import bounds
from registry_spec.bounds_page import PAGE, bounds_page, users_of_bounds


def test_the_tables_are_generated() -> None:
    assert bounds_page() == PAGE.read_text("utf-8"), "run: python -m registry_spec bounds-page"


def test_every_bound_has_a_row_and_a_use() -> None:
    page, users = bounds_page(), users_of_bounds()
    for name in vars(bounds):
        if name.isupper():
            assert f"| `{name}` |" in page, f"{name} needs a comment that begins with #:"
            assert name in users
