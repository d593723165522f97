"""From records to pages: the templates, what they write values with, and the headers of answers."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from litestar import MediaType, Response
from litestar.datastructures import Cookie
from markupsafe import Markup
from msgspec import Struct

from modpkg.core.files import human_bytes
from modpkg.core.printable import one_line, printable
from modpkg.core.regular_file import read_file
from modpkg.core.version import __version__
from modpkg.server.callers import Caller
from modpkg.server.state import Server

_HERE = Path(__file__).parent.parent
STATIC = _HERE / "static"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
    "Vary": "Cookie",
}
"""Of each page: it may load nothing but the style sheet, pictures and the script of this server."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)")


class Frame(Struct, frozen=True, kw_only=True):
    """What is around each page."""

    registry: str
    """Its name."""
    address: str
    """Where people reach it."""
    person: str
    """Who is logged in; empty for nobody."""
    is_known: bool
    """Whether that is known: where an address is of nothing, nobody looked."""
    csrf: str
    """What forms send back."""
    version: str = __version__
    style: str = ""
    """Of the style sheet and the script: another where they change."""


def frame_of(server: Server, caller: Caller | None, csrf: str = "") -> Frame:
    """Return what is around a page.

    Args:
        server: The server.
        caller: Who asks; None where nobody looked.
        csrf: What forms send back where nobody is logged in.
    """
    return Frame(
        registry=server.registry_name,
        address=server.settings.url,
        person="" if caller is None else caller.name,
        is_known=caller is not None,
        csrf=csrf if caller is None else caller.csrf or csrf,
        style=_style(),
    )


def page(
    frame: Frame,
    template: str,
    title: str,
    *,
    status: int = 200,
    cookies: Sequence[Cookie] = (),
    **values: Any,
) -> Response[str]:
    """Return a page.

    Args:
        frame: What is around it.
        template: The name of its template.
        title: The title, without the registry's name.
        status: The answer's status.
        cookies: What the browser is to keep.
        values: What the template shows.
    """
    html = _environment().get_template(template).render(frame=frame, title=title, **values)
    return Response(
        html,
        status_code=status,
        media_type=MediaType.HTML,
        # What has the secret of a login is kept nowhere.
        headers=HEADERS | ({"Cache-Control": "no-store"} if frame.csrf else {}),
        cookies=[*cookies],
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_cleaned,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "bytes": human_bytes,
        "count": _count,
        "date": _date,
        "moment": _moment,
        "shorten": _shorten,
        "shape": _shape,
        "differences": _differences,
    }
    return environment


def prepare_templates() -> None:
    """Compile all templates, which takes some ten milliseconds for each."""
    for name in _environment().list_templates():
        _environment().get_template(name)


@functools.cache
def _style() -> str:
    """Return a name for the style sheet and the script as they are."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        digest.update(read_file(path))
    return digest.hexdigest()[:12]


def _cleaned(value: Any) -> Any:
    """Return a value as it is written: in text, what is invisible is written out."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value


def _count(number: int) -> str:
    """Return a number with thousands apart.

    >>> _count(1234567)
    '1,234,567'
    """
    return f"{number:,}"


def _date(text: str) -> str:
    """Return the date that a time begins with; empty if it begins with none."""
    found = _DATE.match(text)
    return found[0] if found else ""


def _moment(text: str) -> str:
    """Return a time to the minute."""
    found = _MOMENT.match(text)
    return f"{found[1]} {found[2]}" if found else ""


def _shorten(text: str, most: int) -> str:
    """Return text on one line, of at most so many characters."""
    line = one_line(text)
    return line if len(line) <= most else line[: most - 1] + "…"


def _shape(shape: Collection[int]) -> str:
    """Return a shape for people.

    >>> _shape((576, 1536)), _shape(())
    ('576 × 1536', 'scalar')
    """
    return " × ".join(map(str, shape)) or "scalar"


def _differences(counts: Mapping[str, int]) -> str:
    """Return how many tensors are same, changed, and so on.

    >>> _differences({"changed": 3, "same": 1200})
    '1,200 same, 3 changed'
    """
    order = ("same", "changed", "reshaped", "added", "removed")
    return ", ".join(f"{counts[what]:,} {what}" for what in order if counts.get(what))
