"""Slips: what texts look like when they are typed in a hurry."""

from __future__ import annotations

import random
import re

SHARE = 0.4
"""Of the words of four letters or more."""


def typed_in_a_hurry(text: str) -> str:
    """Return the text with two letters swapped, or one left out or doubled, in many words.

    The same text gives the same slips.
    """
    draw = random.Random(text)
    return re.sub(r"[A-Za-z]{4,}", lambda word: _slip(word[0], draw), text)


def _slip(word: str, draw: random.Random) -> str:
    at = draw.randrange(1, len(word) - 1)
    slips = [
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
    ]
    return draw.choice(slips) if draw.random() < SHARE else word
