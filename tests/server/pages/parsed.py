"""A page as a browser reads it: elements and attributes, to find those of an attacker."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urlsplit

ELEMENTS = {
    *("html", "head", "meta", "title", "link", "script", "body", "header", "main", "footer", "nav"),
    *("div", "p", "a", "span", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "dl", "dt"),
    *("dd", "table", "thead", "tbody", "tr", "th", "td", "form", "input", "button", "label"),
    *("select", "option", "textarea", "fieldset", "legend", "code", "pre", "article", "aside"),
    *("section", "time", "details", "summary", "svg", "path", "rect", "text", "defs", "marker"),
    *("blockquote", "em", "strong", "s", "img", "br", "hr"),
}
"""What templates and READMEs are made of."""
ADDRESSES = ("href", "src", "action", "formaction", "data", "poster", "xlink:href")


class ParsedPage(HTMLParser):
    """The elements of a page, and what in it no template of ours wrote."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.foreign: list[str] = []
        self.links: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.text += " " * (tag in ("td", "th", "dt", "dd", "li", "p"))
        if tag not in ELEMENTS:
            self.foreign.append(tag)
        if tag == "a":
            self.links.append(values)
        if tag in ("script", "link", "img") and not (values.get("src") or values.get("href")):
            self.foreign += [tag] * (tag != "img")
        for name, value in attrs:
            if name.startswith("on") or name in ("style", "srcdoc", "xmlns:xlink"):
                self.foreign.append(f"{tag} {name}")
            if name in ADDRESSES:
                parts = urlsplit(value or "")
                own = not parts.scheme and not parts.netloc
                web = tag == "a" and parts.scheme in ("http", "https")
                if not own and not web:
                    self.foreign.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.foreign.append(f"comment {data}")
