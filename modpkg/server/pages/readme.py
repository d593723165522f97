"""READMEs: Markdown from strangers, as HTML that can do nothing."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from msgspec import Struct

from modpkg.core.printable import printable
from modpkg.core.records import ReleaseRecord

MOST_CHARACTERS = 40_000
"""Of a README that are shown; a page has to stay small."""
NAMES = ("README.md", "readme.md", "Readme.md", "README.markdown", "README.txt", "README")
"""What a README is called, the preferred first."""
IMAGES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
"""By the end of its name, the type of a release's file that a README may show."""

_FRONT_MATTER = re.compile(r"\A---\n.{0,20000}?\n---[ \t]*(?:\n|\Z)", re.DOTALL)
"""Fields of a hub's model card, which READMEs of models begin with."""
_TAGS = {
    *("h2", "h3", "h4", "h5", "h6", "p", "br", "hr", "blockquote", "pre", "code"),
    *("ul", "ol", "li", "em", "strong", "s", "a", "img"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {"a": {"href", "title"}, "img": {"src", "alt", "title"}, "ol": {"start"}}
_SCROLLED = (
    ("<table>", '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>'),
    ("</table>", "</table></div>"),
    ("<pre>", '<pre tabindex="0">'),
)
_DEEPEST = 20
"""Lists and quotes inside one another; a parser of browsers is slow with thousands."""


class Readme(Struct, frozen=True):
    """A README to show."""

    html: Markup
    """Safe to insert into a page."""
    cut: bool
    """Whether its end is left out."""


def readme_path(record: ReleaseRecord) -> str | None:
    """Return the path of a release's README; None if it has none."""
    return next((name for name in NAMES if name in record.files), None)


def render_readme(text: str, own: str, images: Collection[str]) -> Readme:
    """Return Markdown as HTML: no HTML of its own, links to http and https only.

    Headings go down one level: the page has a first one already.

    Args:
        text: The README, as it is.
        own: The path of the pages of its release, which its images are below.
        images: The release's files that it may show; images from elsewhere are left out, since
            whoever serves them would learn who reads the page.
    """
    text = _FRONT_MATTER.sub("", text.replace("\r\n", "\n").replace("\r", "\n"), count=1)
    shown = text[:MOST_CHARACTERS]
    if cut := len(text) > MOST_CHARACTERS:
        shown = shown.rpartition("\n")[0] or shown
    markdown = _parser()
    tokens = markdown.parse(printable(shown))
    _lower(tokens)
    html = markdown.renderer.render(tokens, markdown.options, {})

    def kept(tag: str, attribute: str, value: str) -> str | None:
        if attribute == "href":
            return value if _is_web(value) else None
        if attribute == "src":
            path = posixpath.normpath(unquote(value))
            return f"{own}/files/{quote(path)}" if path in images else None
        return value

    clean = nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=kept,
        url_schemes={"http", "https"},
        link_rel="nofollow noopener noreferrer",
    )
    # What scrolls has to be reached by the keyboard. In clean HTML these stand for elements alone.
    for before, after in _SCROLLED:
        clean = clean.replace(before, after)
    return Readme(Markup(clean), cut)  # noqa: S704 (this is what makes it safe)


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    options = {"html": False, "linkify": False, "maxNesting": _DEEPEST}
    return MarkdownIt("commonmark", options).enable(["table", "strikethrough"])


def _lower(tokens: list[Token]) -> None:
    """Put headings one level down, and none more than one level below the one before it."""
    last = 1
    for token in tokens:
        if token.type == "heading_open":
            last = min(int(token.tag[1:]) + 1, last + 1, 6)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{last}"


def _is_web(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)
