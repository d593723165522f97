"""YAML that others wrote: read safely, and bounded in what aliases and merge keys repeat."""

from __future__ import annotations

import datetime
from typing import Any

from modpkg.core.extras import import_extra


class MalformedYaml(Exception):
    """A text is no YAML, or more than is read of it; the reason is a clause."""


def read_yaml(
    text: str, *, what: str, extra: str, values: int, depth: int, dates: bool = False
) -> Any:
    """Return what a text has as YAML: texts, numbers, lists, and mappings whose keys are texts.

    Args:
        text: The text.
        what: What reads it, as the subject of a sentence.
        extra: The extra of modpkg that installs PyYAML.
        values: How many values it may have, with those that are repeated.
        depth: How many mappings and lists may be inside one another.
        dates: Whether it may have dates.

    Raises:
        MalformedYaml: It is malformed, or reaches a bound.
        MissingExtra: PyYAML is not installed.
    """
    yaml = import_extra("yaml", what=what, package="PyYAML", extra=extra)
    try:
        data = yaml.load(text, _bounded(yaml.SafeLoader, yaml.YAMLError, values))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first = str(error).partition("\n")[0]
        if first.startswith("expected a single document"):
            raise MalformedYaml(
                "it has several documents, parted by '---'; make a file of each"
            ) from None
        raise MalformedYaml(f"it is not YAML ({first})") from None
    if (problem := _problem(data, values, depth, dates)) is not None:
        raise MalformedYaml(problem)
    return data


def _bounded(loader: Any, error: type[Exception], values: int) -> Any:
    """Return PyYAML's safe loader with a bound on what merge keys (``<<``) repeat.

    A merge key copies the entries of another mapping, and another one those of the copy.
    """

    class BoundedLoader(loader):  # type: ignore[misc]
        merged = 0

        def flatten_mapping(self, node: Any) -> None:
            super().flatten_mapping(node)
            self.merged += len(node.value)
            if self.merged > values:
                raise error(f"its mappings have more than {values:,} entries")

    return BoundedLoader


def _problem(data: Any, values: int, most: int, dates: bool) -> str | None:
    """Return why data are not read; a YAML alias can repeat or nest itself."""
    count = 0
    pending: list[tuple[Any, int]] = [(data, 1)]
    while pending:
        value, depth = pending.pop()
        count += 1
        if count > values:
            return f"it has more than {values:,} values"
        if depth > most:
            return f"it is nested more than {most} deep"
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                return "a key of it is not text"
            pending += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list):
            pending += [(item, depth + 1) for item in value]
        elif not isinstance(value, str | int | float | None) and not (
            dates and isinstance(value, datetime.date)
        ):
            return f"it has the value {str(value)[:60]!r}, which is no text, number or boolean"
        elif isinstance(value, int) and value.bit_length() > 64:
            return "it has a whole number of more than 64 bits"
    return None
