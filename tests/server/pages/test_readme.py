"""READMEs of strangers."""

from __future__ import annotations

import pytest

from modpkg.server.pages.readme import MOST_CHARACTERS, render_readme
from tests.server.pages.parsed import ParsedPage

OWN = "/modules/words/1.0"


def html(text: str, images: set[str] | None = None) -> str:
    return str(render_readme(text, OWN, images or set()).html)


def test_markdown_is_shown() -> None:
    shown = html("# Words\n\nSome *text* and `code`.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n~~old~~")
    for part in ("<h2>Words</h2>", "<em>text</em>", "<code>code</code>", "<td>1</td>", "<s>old"):
        assert part in shown


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<svg/onload=alert(1)>",
        "<style>body{display:none}</style>",
        "<base href=https://evil.example/>",
        "<!-- hidden -->",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt&#58;alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "[x](vbscript:x)",
        "[x](//evil.example/)",
        "[x](/account)",
        "![x](https://evil.example/pixel.png)",
        "![x](//evil.example/pixel.png)",
        "![x](data:image/svg+xml,<svg onload=alert(1)>)",
        '<https://evil.example/" onmouseover="alert(1)>',
        '[x](https://a.example/"onmouseover="alert(1))',
        '[x](https://a.example "t\\" onclick=alert(1) x=\\"")',
        "[x]: javascript:alert(1)\n\n[x]",
        '```x" onclick=alert(1)\ncode\n```',
        "<table><form action=/logout><button formaction=https://evil.example>",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "<x" * 500,
    ],
)
def test_what_could_do_something_is_text_or_nothing(text: str) -> None:
    parsed = ParsedPage(html(text))
    assert parsed.foreign == []
    for link in parsed.links:
        assert (link.get("href") or "https://").startswith("https://")
    assert "<img src" not in html(text)


def test_links_pass_nothing_on() -> None:
    (link,) = ParsedPage(html("[x](https://a.example/?q=1&r=2)")).links
    assert link["href"] == "https://a.example/?q=1&r=2"
    assert set((link["rel"] or "").split()) == {"nofollow", "noopener", "noreferrer"}


def test_images_are_those_of_the_release() -> None:
    images = {"docs/loss curve.png"}
    assert f'src="{OWN}/files/docs/loss%20curve.png"' in html("![x](<docs/loss curve.png>)", images)
    assert f'src="{OWN}/files/docs/loss%20curve.png"' in html(
        "![x](./docs/loss%20curve.png)", images
    )
    for other in (
        "../docs/x.png",
        "docs/other.png",
        "/docs/loss curve.png",
        "?docs/loss curve.png",
    ):
        assert "src=" not in html(f"![x](<{other}>)", images)


def test_text_cannot_be_shown_in_another_order_than_it_has() -> None:
    assert "\\u202e" in html("abc \u202egnp.exe")
    assert "\u202e" not in html("abc \u202egnp.exe")


def test_headings_go_down_step_by_step() -> None:
    assert html("# a\n\n#### b\n\n## c").count("<h3>") == 2
    assert "<h1" not in html("# a")


def test_fields_of_a_model_card_are_left_out() -> None:
    assert html("---\nlicense: mit\ntags:\n- x\n---\n# Words").strip() == "<h2>Words</h2>"
    assert "license" in html("---\nlicense: mit\n")


def test_tables_and_code_are_reached_by_the_keyboard() -> None:
    shown = html("```\nx\n```\n\n| a |\n|---|\n| 1 |")
    assert shown.count('tabindex="0"') == 2


@pytest.mark.parametrize(
    "text",
    ["> " * 20_000, "*a " * 20_000, "[" * 20_000, "- " * 20_000, "`" * 30_000, "|a" * 15_000],
)
def test_a_readme_that_is_hard_to_read_stays_small_and_quick(text: str) -> None:
    assert len(html(text)) < 400_000


def test_a_long_readme_is_cut_at_a_line() -> None:
    readme = render_readme("word\n" * MOST_CHARACTERS, OWN, set())
    assert readme.cut
    assert len(readme.html) <= MOST_CHARACTERS + 100
