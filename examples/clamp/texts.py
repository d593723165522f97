"""The rated texts of four domains, drawn for the story from the sdist of vaderSentiment 3.3.2.

    python texts.py vaderSentiment-3.3.2.tar.gz

writes texts.tsv: domain, part, label and text of each, as it lies beside this script. Whoever runs
the story needs only that file.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("texts.tsv")
LABELS = ["negative", "neutral", "positive"]
DOMAINS = {
    "films": "movieReviewSnippets",
    "tweets": "tweets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}
SIZES = {"train": 1200, "validation": 300, "test": 400}
"""Texts of each domain. Settings were chosen on validation; test is for the cases of suites."""
ONE_IN = dict.fromkeys(SIZES, 1)
"""Of so many texts of a part, one is read: all, unless the story is to end sooner."""


class Text(NamedTuple):
    """A rated text."""

    domain: str
    part: str
    label: int
    text: str


def part_of(document: str) -> str:
    """Return a document's part: a fifth of them are for testing, a tenth for validation.

    Reviews and editorials are documents of many sentences, and fall into one part as a whole. The
    ids of tweets and film snippets are numbers with no thread or film in them.
    """
    byte = sha256(document.encode()).digest()[0]
    return "test" if byte < 52 else "validation" if byte < 78 else "train"


def rated(sdist: Path) -> Iterator[Text]:
    """Yield all texts; a mean rating, from -4 to 4, within half a point of zero is neutral."""
    with tarfile.open(sdist) as outer:
        name = next(n for n in outer.getnames() if n.endswith("/hutto_ICWSM_2014.tar.gz"))
        member = outer.extractfile(name)
        assert member is not None
        inner = member.read()
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        for domain, stem in DOMAINS.items():
            member = archive.extractfile(f"hutto_ICWSM_2014/{stem}_GroundTruth.txt")
            assert member is not None
            for line in member.read().decode().splitlines():
                key, rating, text = line.split("\t", 2)
                mean = float(rating)
                label = 0 if mean < -0.5 else 2 if mean > 0.5 else 1
                yield Text(domain, part_of(f"{domain} {key.split('_')[0]}"), label, text.strip())


def draw(sdist: Path) -> list[Text]:
    """Return what the story uses: the first of each domain and part in the order of their hash."""
    seen: dict[str, Text] = {}
    for text in rated(sdist):
        seen.setdefault(text.text, text)
    drawn: Counter[tuple[str, str]] = Counter()
    found = []
    for text in sorted(seen.values(), key=lambda text: sha256(text.text.encode()).digest()):
        drawn[text.domain, text.part] += 1
        if drawn[text.domain, text.part] <= SIZES[text.part]:
            found.append(text)
    order = list(DOMAINS), list(SIZES)
    return sorted(found, key=lambda t: (order[0].index(t.domain), order[1].index(t.part)))


def read_texts(domain: str, part: str, count: int | None = None) -> list[Text]:
    """Return the texts of a domain's part, or those among the first ``count`` of them."""
    found = []
    for line in FILE.read_text("utf-8").splitlines():
        *where, label, text = line.split("\t", 3)
        if where == [domain, part]:
            found.append(Text(domain, part, LABELS.index(label), text))
    return found[: count : ONE_IN[part]]


if __name__ == "__main__":
    lines = [f"{t.domain}\t{t.part}\t{LABELS[t.label]}\t{t.text}" for t in draw(Path(sys.argv[1]))]
    FILE.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{len(lines)} texts in {FILE.name}")
