"""The parameters in ``docs/merging.md`` are those that methods and operators declare."""

from __future__ import annotations

from registry_spec.parameters_page import PAGE, parameters_page


def test_the_table_is_generated() -> None:
    text = PAGE.read_text("utf-8")
    assert parameters_page() == text, "run: python -m registry_spec parameters-page"
