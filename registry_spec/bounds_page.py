"""The tables of bounds in ``docs/security.md``, generated from `modpkg.core.bounds`."""

from __future__ import annotations

import re
from pathlib import Path

from modpkg.core import bounds

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "security.md"
_BEGIN = "<!-- bounds: written by python -m registry_spec bounds-page -->\n"
_END = "<!-- end of bounds -->\n"
_HEADING = re.compile(r"^# (\w[^\n]*?) -{10,}$")
_CONSTANT = re.compile(r"^([A-Z][A-Z0-9_]*)\b.* = ")


def bounds_page() -> str:
    """Return the page as it is to be: the text around the tables is written by hand."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no place for the bounds")
    return before + begin + _tables() + end + after


def write_bounds_page() -> None:
    """Write `bounds_page`."""
    PAGE.write_text(bounds_page(), encoding="utf-8")


def users_of_bounds() -> dict[str, list[str]]:
    """Return the files of modpkg that import each bound."""
    users: dict[str, list[str]] = {}
    for path in sorted((ROOT / "modpkg").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path == Path(bounds.__file__).resolve() or "bounds" not in text:
            continue
        for name in set(re.findall(r"\b[A-Z][A-Z0-9_]{3,}\b", text)):
            users.setdefault(name, []).append(path.relative_to(ROOT / "modpkg").as_posix())
    return users


def _tables() -> str:
    users = users_of_bounds()
    text, comment = "", ""
    for line in Path(bounds.__file__).read_text(encoding="utf-8").splitlines():
        if match := _HEADING.match(line):
            text += f"\n### {match[1]}\n\n| bound | most | of what | where |\n|---|---|---|---|\n"
        elif line.startswith("#:"):
            comment += line[2:]
        elif match := _CONSTANT.match(line):
            name = match[1]
            where = ", ".join(f"`{path}`" for path in users.get(name, ()))
            what = re.sub(r"`+", "`", comment.strip())
            text += f"| `{name}` | {_written(name)} | {what} | {where} |\n"
            comment = ""
    return text + "\n"


def _written(name: str) -> str:
    value = getattr(bounds, name)
    if name.endswith("BYTES") and isinstance(value, int):
        for size, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
            if value >= 1 << size and value % (1 << size) == 0:
                return f"{value >> size} {unit}"
    return f"{value:,}" if isinstance(value, (int, float)) else f"`{value}`"
