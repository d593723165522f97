"""The one zstd frame that an encoded tensor is: written from chunks, read without trust."""

from __future__ import annotations

from collections.abc import Iterable

from modpkg.core.errors import ReleaseError

LEVEL = 1
SEARCH = {"hash_log": 6, "min_match": 7}
"""zstd looks for hardly any repetition: byte planes gain from entropy coding alone, and what it
would find, it finds by chance; see benchmarks/results/deltas.md."""
WINDOW_LOG = 17
"""log2 of the window that is written: one plane, since planes repeat little of each other."""
MAX_WINDOW = 8 << 20
"""Longest window in bytes that is read: what decoding takes of memory, beside a block or two."""

_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK_SHARE = 64
"""A frame has at most one zstd block for so many bytes of content, and 16 more."""


def write_frame(chunks: Iterable[bytes], size: int) -> bytes:
    """Return one zstd frame of ``size`` bytes: single-threaded, so equal input gives equal bytes.

    The frame says its content's size, and has no checksum: the tensor's digest is verified.
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
    """The content of a frame, read from its beginning into buffers of the caller's.

    Raises:
        ReleaseError: it is not exactly one frame with a content of ``least`` to ``most`` bytes.
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
            raise self.refused(f"its frame's header is not understood ({error})") from None
        self.size = parameters.content_size
        if not least <= self.size <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise self.refused(f"its frame does not hold {wanted} bytes")
        if parameters.window_size > MAX_WINDOW:
            raise self.refused(f"its frame wants a window of {parameters.window_size} bytes")
        if parameters.dict_id:
            raise self.refused("its frame wants a dictionary")
        end = self._end_of_blocks(payload, header) + (4 if parameters.has_checksum else 0)
        if end != len(payload):
            raise self.refused(f"its frame ends after {end} of {len(payload)} bytes")
        self._reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(payload)

    def refused(self, reason: str) -> ReleaseError:
        """Return the error that says why the payload cannot be decoded."""
        return ReleaseError("M212", what=self._what, reason=reason)

    def fill(self, buffer: memoryview) -> None:
        """Fill ``buffer`` with the content's next bytes."""
        done = 0
        while done < len(buffer):
            done += self._step(buffer[done:])

    def finish(self) -> None:
        """Check that nothing follows what was read."""
        if self._step(memoryview(bytearray(1)), ended=True):
            raise self.refused("its frame holds more than it says")

    def _step(self, buffer: memoryview, ended: bool = False) -> int:
        try:
            count: int = self._reader.readinto(buffer)
        except self._broken as error:
            raise self.refused(f"zstd says: {error}") from None
        if not count and not ended:
            raise self.refused("its frame holds less than it says")
        return count

    def _end_of_blocks(self, payload: memoryview, start: int) -> int:
        """Return where the frame's last block ends, which zstd's own reader does not tell.

        A block has a header of 3 bytes: whether it is the last, its kind, its length (of 1, when
        the kind is "one byte, repeated").
        """
        most = 16 + self.size // _BLOCK_SHARE
        for _ in range(most):
            header = int.from_bytes(payload[start : start + 3], "little")
            start += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)
            if start > len(payload):
                raise self.refused("its frame is cut short")
            if header & 1:
                return start
        raise self.refused(f"its frame has over {most} blocks")
