"""The table of parameters in ``docs/merging.md``, from what methods and operators declare."""

from __future__ import annotations

from pathlib import Path

from modpkg.compose.operators import OPERATORS
from modpkg.compose.parameter import REQUIRED, Parameter
from modpkg.compose.reducers import REDUCERS

PAGE = Path(__file__).parent.parent / "docs" / "merging.md"
_BEGIN = "<!-- parameters: written by python -m registry_spec parameters-page -->\n"
_END = "<!-- end of parameters -->\n"
_NOUNS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


def parameters_page() -> str:
    """Return the page as it is to be: the text around the table is written by hand."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no place for the parameters")
    return before + begin + _table() + end + after


def write_parameters_page() -> None:
    """Write `parameters_page`."""
    PAGE.write_text(parameters_page(), encoding="utf-8")


def _table() -> str:
    owners: dict[tuple[str, str, str, str], list[str]] = {}
    for name, method in sorted(REDUCERS.items()):
        for key, one in method.parameters.items():
            owners.setdefault(_row(key, one), []).append(f"`{name}`")
    for name, operator in sorted(OPERATORS.items()):
        for key, one in (operator.parameters or {}).items():
            owners.setdefault(_row(key, one, of_step=True), []).append(f"op `{name}`")
    lines = ["", "| parameter | values | default | whose | of |", "|---|---|---|---|---|"]
    for row, names in sorted(owners.items()):
        lines.append(f"| {' | '.join(row)} | {', '.join(names)} |")
    return "\n".join([*lines, "", ""])


def _row(key: str, one: Parameter, *, of_step: bool = False) -> tuple[str, str, str, str]:
    values = _NOUNS[one.type]
    if one.choices:
        values = ", ".join(f"`{choice}`" for choice in one.choices)
    elif limits := one.range():
        values = f"{values}, {limits}"
    if one.module:
        values += ", or a module"
    default = "required" if one.default is REQUIRED else _written(one.default)
    whose = "the step's, or the method's" if one.each else "the method's"
    whose = "the step's" if of_step else whose
    return f"`{key}`", values, default, whose


def _written(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int | float):
        return f"{default:g}"
    return f"`{default}`" if default else ""
