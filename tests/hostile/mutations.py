"""Mutations of inputs: bytes, words of a text, values of a JSON document."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]

NUMBERS = (
    *(0, 1, -1, 7, 8, 63, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32),
    *(2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -(2**63)),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", " ", "..", "/", "../../x", "a" * 300, "é", "\u202e", "\x1b[2J"),
    *("\x00", "\n", "1", "1.0", ">=1", "sha256:" + "0" * 64, "tiny", [], {}, [[]], {"": None}),
    *(1.5, -0.0, 1e308, 1e-320, *NUMBERS),
)
WORDS = (
    *("[", "]", "{", "}", "[[", "]]", "(", ")", '"', "'", '"""', "'''", ",", ":", "=", "#", "\n"),
    *("true", "false", "null", "nan", "inf", "-inf", "1e999", "0x", "1979-05-27", "\\u0000", "\\"),
    *("&a", "*a", "!!python/object/apply:os.system", "---", "|", ">", "? ", "- ", "<<", "\t"),
    *("\u202e", "\ufeff", "\x00", "\x7f", "[" * 200, "(a+)+$", ".*", "*" * 50, "9" * 5000),
    *map(str, NUMBERS),
)
MOST = 2000
"""Values of a document that is mutated further."""
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|[\w.+-]+|\s+|[^\w\s]')


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return data with some bytes flipped, cut out, repeated, or replaced by numbers."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(7):
            case 0 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[at % len(out)] = rng.randrange(256)
            case 2:
                del out[at : at + rng.choice((1, 1, 2, 4, 8, 100))]
            case 3:
                out[at:at] = out[at : at + rng.choice((1, 4, 8, 32, 200))]
            case 4:
                out[at:at] = rng.randbytes(rng.choice((1, 4, 8)))
            case 5:
                del out[at:]
            case _:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice(NUMBERS) % (1 << 8 * width)
                out[at : at + width] = number.to_bytes(width, "little")
    return bytes(out)


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """Return a text with some of its words deleted, repeated, swapped or replaced."""
    words = _TOKEN.findall(data.decode("utf-8", "replace"))
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(words) + 1)
        match rng.randrange(6):
            case 0:
                del words[at : at + rng.choice((1, 1, 2, 8))]
            case 1:
                words[at:at] = words[at : at + rng.choice((1, 2, 8, 30))]
            case 2 if words:
                words[at % len(words)] = rng.choice(words)
            case 3 if words:
                words[at % len(words)] = rng.choice(WORDS)
            case 4 if words:
                words[at % len(words)] *= rng.choice((2, 10, 300))
            case _:
                words.insert(at, rng.choice(WORDS))
    return "".join(words).encode("utf-8", "replace")


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Return a JSON document with some of its values and keys replaced, moved or deleted."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict | list):
        return mutate_text(data, rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = _places(document)
        if not 0 < len(places) < MOST:
            break
        holder, key = rng.choice(places)
        match rng.randrange(7):
            case 0 | 1:
                holder[key] = copy.deepcopy(rng.choice(VALUES))
            case 2:
                del holder[key]
            case 3:
                other, its = rng.choice(places)
                holder[key] = json.loads(json.dumps(other[its]))
            case 4 if isinstance(holder, dict):
                holder[str(rng.choice(VALUES))] = holder.pop(key)
            case 5 if isinstance(holder[key], list):
                holder[key] = copy.deepcopy(holder[key] * rng.choice((2, 3, 40)))
            case 6 if isinstance(holder[key], str):
                holder[key] = mutate_text(holder[key].encode(), rng).decode()
            case _:
                for _ in range(rng.choice((1, 3, 100))):
                    holder[key] = [holder[key]]
    return json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace")


def mutate_lines(data: bytes, rng: random.Random) -> bytes:
    """Return JSON lines with one of them mutated, repeated or moved."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    if rng.random() < 0.8:
        lines[at] = mutate_json(lines[at], rng)
    elif rng.random() < 0.5:
        lines[at:at] = [lines[at]] * rng.choice((1, 2, 50))
    else:
        rng.shuffle(lines)
    return b"\n".join(lines)


def mutate_framed(data: bytes, rng: random.Random) -> bytes:
    """Return a safetensors file with its JSON header mutated and its length right, mostly."""
    length = int.from_bytes(data[:8], "little")
    header = mutate_json(data[8 : 8 + length], rng)
    number = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS) % (1 << 64)
    return number.to_bytes(8, "little") + header + data[8 + length :]


def _places(document: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    pending = [document]
    while pending and len(found) < MOST:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                pending.append(holder[key])
    return found
