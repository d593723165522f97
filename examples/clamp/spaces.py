"""Lost spaces: what texts look like that were scanned, or copied out of a PDF."""

from __future__ import annotations

import random
import re

SHARE = 0.8


def without_spaces(text: str) -> str:
    """Return the text with most of its spaces gone; the same text loses the same ones."""
    draw = random.Random(text)
    return re.sub(" ", lambda _: "" if draw.random() < SHARE else " ", text)
