"""The zstd frame of an encoded tensor: written from chunks, validated while it is read."""

from __future__ import annotations

from collections.abc import Iterable

from modpkg.core.bounds import DELTA_WINDOW_BYTES
from modpkg.core.errors import ReleaseError

LEVEL = 1
SEARCH = {"hash_log": 6, "min_match": 7}
"""Minimal match finding: byte planes gain from entropy coding alone, and matches are accidental;
see benchmarks/results/deltas.md."""
WINDOW_LOG = 17
"""log2 of the window when writing: one plane, since planes have little in common."""

_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK_SHARE = 64
"""Fewest bytes of content per zstd block on average; 16 more blocks are allowed."""


def write_frame(chunks: Iterable[bytes], size: int) -> bytes:
    """Return one zstd frame with ``size`` bytes of content; single-threaded, hence deterministic.

    The frame states its content size and has no checksum: the tensor's digest is verified instead.
    """
    import zstandard

    settings = zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        window_log=WINDOW_LOG,
        **SEARCH,
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
        threads=0,
    )
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj(size=size)
    parts = [compressor.compress(chunk) for chunk in chunks]
    parts.append(compressor.flush())
    return b"".join(parts)


class FrameReader:
    """Reads a frame's content sequentially into the caller's buffers.

    Raises:
        ReleaseError: The payload is not exactly one frame with ``least`` to ``most`` bytes of
            content.
    """

    def __init__(self, payload: memoryview, least: int, most: int, what: str) -> None:
        import zstandard

        self._what = what
        self._broken = zstandard.ZstdError
        if bytes(payload[:4]) != _MAGIC:
            raise self.refused("it does not begin with a zstd frame")
        try:
            parameters = zstandard.get_frame_parameters(payload[:18])
            header = zstandard.frame_header_size(payload[:18])
        except zstandard.ZstdError as error:
            raise self.refused(f"its frame has an invalid header ({error})") from None
        self.size = parameters.content_size
        if not least <= self.size <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise self.refused(f"its frame does not contain {wanted} bytes")
        if parameters.window_size > DELTA_WINDOW_BYTES:
            raise self.refused(f"its frame needs a window of {parameters.window_size} bytes")
        if parameters.dict_id:
            raise self.refused("its frame needs a dictionary")
        end = self._end_of_blocks(payload, header) + (4 if parameters.has_checksum else 0)
        if end != len(payload):
            raise self.refused(f"its frame ends after {end} of {len(payload)} bytes")
        decompressor = zstandard.ZstdDecompressor(max_window_size=DELTA_WINDOW_BYTES)
        self._reader = decompressor.stream_reader(payload)

    def refused(self, reason: str) -> ReleaseError:
        """Return the error for a payload that cannot be decoded."""
        return ReleaseError("M212", what=self._what, reason=reason)

    def fill(self, buffer: memoryview) -> None:
        """Fill ``buffer`` with the next bytes of the content."""
        done = 0
        while done < len(buffer):
            done += self._step(buffer[done:])

    def finish(self) -> None:
        """Check that the content ends here."""
        if self._step(memoryview(bytearray(1)), ended=True):
            raise self.refused("its frame has more content than its header states")

    def _step(self, buffer: memoryview, ended: bool = False) -> int:
        try:
            count: int = self._reader.readinto(buffer)
        except self._broken as error:
            raise self.refused(f"zstd failed: {error}") from None
        if not count and not ended:
            raise self.refused("its frame has less content than its header states")
        return count

    def _end_of_blocks(self, payload: memoryview, start: int) -> int:
        """Return the offset at which the last block ends, which python-zstandard does not report.

        A block has a 3-byte header: whether it is the last, its type, and its length (stored as 1
        byte if the type is RLE).
        """
        most = 16 + self.size // _BLOCK_SHARE
        for _ in range(most):
            header = int.from_bytes(payload[start : start + 3], "little")
            start += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)
            if start > len(payload):
                raise self.refused("its frame is truncated")
            if header & 1:
                return start
        raise self.refused(f"its frame has over {most} blocks")
