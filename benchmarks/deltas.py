"""Encodings of changed tensors: their size, and how fast they are written and read.

    python benchmarks/deltas.py EARLIER LATER [EARLIER LATER ...] [--runs 3]

Each pair is two safetensors files with tensors of the same names. One process, one thread, files
in the page cache; a rate is the tensors' own bytes per second of CPU time, best of the runs,
without hashing, which is measured separately. Every decoded tensor is compared with the original.
Writes benchmarks/results/deltas.md.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import described  # noqa: E402
from modpkg.core.dtypes import DTYPE_BYTES  # noqa: E402
from modpkg.core.packs import read_pack_header  # noqa: E402
from modpkg.core.records import METHODS  # noqa: E402
from modpkg.deltas import decode, encode, frame  # noqa: E402
from modpkg.deltas.frame import write_frame  # noqa: E402
from modpkg.deltas.planes import split_planes  # noqa: E402
from modpkg.deltas.sparse import count_changes, split_changes  # noqa: E402

Tensors = dict[str, tuple[str, memoryview]]


def tensors(path: Path) -> Tensors:
    """Return dtype and bytes of every tensor in a file."""
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    sum(data[::4096])  # into the page cache
    return {
        name: (place.dtype, data[place.offset : place.offset + place.length])
        for name, place in read_pack_header(path).items()
    }


def written(method: str, new: memoryview, old: memoryview, width: int) -> bytes:
    """Return one method's payload, whether or not it would be chosen."""
    if method == "sparse":
        content = list(split_changes(new, old, width))
        return write_frame(content, sum(map(len, content)))
    return write_frame(split_planes(new, old if method == "difference" else None, width), len(new))


def timed(runs: int, action: Callable[[], object]) -> float:
    """Return the CPU seconds of the fastest run."""
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        action()
        seconds.append(time.process_time() - start)
    return min(seconds)


def measure(earlier: Tensors, later: Tensors, runs: int) -> tuple[str, list[str]]:
    """Return a sentence on how much changed, and a row for each method and for the choice."""
    total = sum(len(new) for _, new in later.values())
    changed = elements = 0
    rows: list[str] = []
    for name, (dtype, new) in later.items():
        changed += count_changes(new, earlier[name][1], DTYPE_BYTES[dtype])
        elements += len(new) // DTYPE_BYTES[dtype]
    for method in METHODS:
        size, encoding, decoding, slowest = 0, 0.0, 0.0, float("inf")
        for name, (dtype, new) in later.items():
            old, width = earlier[name][1], DTYPE_BYTES[dtype]
            payload = written(method, new, old, width)
            encoding += timed(runs, lambda: written(method, new, old, width))  # noqa: B023
            size += len(payload)
            out = memoryview(bytearray(len(new)))
            base = None if method == "planes" else old
            took = timed(runs, lambda: decode(method, payload, base, out, dtype, name))  # noqa: B023
            decoding += took
            if len(new) > 1 << 20:
                slowest = min(slowest, len(new) / took)
            if out != new:
                raise SystemExit(f"{name} was not restored by {method}")
        rows.append(
            f"| `{method}` | {size / total:.1%} | {total / encoding / 1e6:.0f} "
            f"| {total / decoding / 1e6:.0f} | {slowest / 1e6:.0f} |"
        )
    chosen: dict[str, int] = {}
    size, start = 0, time.process_time()
    for name, (dtype, new) in later.items():
        found = encode(new, earlier[name][1], dtype)
        kind = "plain" if found is None else found[0]
        chosen[kind] = chosen.get(kind, 0) + 1
        size += len(new) if found is None else len(found[1])
    rate = total / (time.process_time() - start) / 1e6
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(chosen.items()))
    rows.append(f"| chosen ({kinds}) | {size / total:.1%} | {rate:.0f} | | |")
    return f"{changed / elements:.1%} of {elements / 1e6:.0f} million elements differ", rows


def levels(earlier: Tensors, later: Tensors) -> list[str]:
    """Return rows for the standard levels of zstd and for other windows."""
    large = [name for name, (_, new) in later.items() if len(new) > 1 << 20][:8]
    chosen = frame.LEVEL, frame.SEARCH, frame.WINDOW_LOG
    total = sum(len(later[name][1]) for name in large)
    rows = []
    for level, search, window in (chosen, (1, {}, 17), (1, {}, 20), (3, {}, 17), (3, {}, 20)):
        frame.LEVEL, frame.SEARCH, frame.WINDOW_LOG = level, search, window
        cells = []
        for method in METHODS:
            size, encoding, decoding = 0, 0.0, 0.0
            for name in large:
                dtype, new = later[name]
                old, out = earlier[name][1], memoryview(bytearray(len(new)))
                start = time.process_time()
                payload = written(method, new, old, DTYPE_BYTES[dtype])
                encoding += time.process_time() - start
                size += len(payload)
                base = None if method == "planes" else old
                start = time.process_time()
                decode(method, payload, base, out, dtype, name)
                decoding += time.process_time() - start
            rates = f"{total / encoding / 1e6:.0f}, {total / decoding / 1e6:.0f}"
            cells.append(f"{size / total:.1%}, {rates}")
        settings = "chosen" if search else f"level {level}"
        rows.append(f"| {settings}, {1 << window >> 10} KiB | {' | '.join(cells)} |")
    frame.LEVEL, frame.SEARCH, frame.WINDOW_LOG = chosen
    return rows


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", type=Path, nargs="+", metavar="EARLIER LATER")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    pairs = list(zip(arguments.files[::2], arguments.files[1::2], strict=True))
    earlier = tensors(pairs[0][0])
    whole = b"".join(bytes(data) for _, data in list(earlier.values())[:40])
    hashing = len(whole) / timed(3, lambda: hashlib.sha256(whole)) / 1e6
    lines = [
        "# Encodings of changed tensors",
        "",
        f"`python benchmarks/deltas.py EARLIER LATER …` on {described()}, load average "
        f"{os.getloadavg()[0]:.1f} at the start. One thread, best of {arguments.runs} runs. Sizes "
        "are shares of the plain bytes; rates are of the tensors' own bytes per second of "
        "CPU time, since the machine was shared; decoding is without "
        f"hashing (sha256 alone: {hashing:.0f} MB/s). *slowest*: of the tensors over 1 MiB, "
        "the one that is decoded most slowly.",
    ]
    for before, after in pairs:
        summary, rows = measure(tensors(before), tensors(after), arguments.runs)
        lines += ["", f"## {after.stem}", "", f"{summary}.", ""]
        lines += ["| method | size | encode, MB/s | decode, MB/s | slowest |"]
        lines += ["|---|---|---|---|---|", *rows]
    lines += ["", "## Other settings of zstd", "", "Size, and MB/s of encoding and decoding.", ""]
    lines += ["| settings, window | `sparse` | `difference` | `planes` |", "|---|---|---|---|"]
    lines += levels(earlier, tensors(pairs[0][1]))
    text = "\n".join(lines) + "\n"
    (ROOT / "benchmarks" / "results" / "deltas.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
