"""Chat templates, rendered in a process of their own, within bounds on time, memory and output."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from modpkg.core import bounds
from modpkg.core.errors import RunError
from modpkg.core.system_limits import reached_processor_limit

_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from modpkg.compose.template_process import main; main()"
)


class TemplateFailed(Exception):
    """A template raised an error; the text names its type, and says what it is."""


class BoundedTemplate:
    """What transformers gets in place of a template that it compiled: it renders elsewhere."""

    def __init__(self, template: str, file: str) -> None:
        """Args:
        template: The template.
        file: Transformers' file that defines how templates are compiled.
        """
        self._template = template
        self._file = file

    def render(self, **values: Any) -> str:
        """Return the rendered text.

        Raises:
            TemplateFailed: The template raised an error.
            RunError: It reached a bound.
        """
        if len(self._template) > bounds.TEMPLATE_CHARACTERS:
            raise _bound(f"is longer than {bounds.TEMPLATE_CHARACTERS} characters")
        most = bounds.TEMPLATE_OUTPUT_CHARACTERS + 4 * _length(values)
        return _renderer(self._file).render(self._template, values, most)


def prepare(file: str) -> None:
    """Start the process, so that it is ready when a template is to be rendered."""
    _renderer(file).start()


class _Renderer:
    """The process; started when it is first needed, and again after it was stopped."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, if it does not run."""
        with self._lock:
            self._started()

    def close(self) -> None:
        """End the process, if it runs."""
        with self._lock:
            if self._process is not None:
                self._stopped()

    def render(self, template: str, values: Mapping[str, Any], most: int) -> str:
        """Return the text that a template makes of values; see `BoundedTemplate.render`.

        ``most`` is the bound on its characters.
        """
        request = pickle.dumps((template, values, most))
        with self._lock:
            answer = self._ask(request)
        if "text" in answer:
            return str(answer["text"])
        if "error" in answer:
            raise TemplateFailed(str(answer["error"]))
        if answer.get("bound") == "output":
            raise _bound(f"writes more than {most} characters")
        raise _bound(f"takes more than {bounds.TEMPLATE_MEMORY_BYTES >> 20} MB of memory")

    def _ask(self, request: bytes) -> dict[str, Any]:
        process = self._started()
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(bounds.TEMPLATE_WAIT_SECONDS, end)
        timer.daemon = True
        timer.start()
        try:
            _send(process, request)
            answer = _received(process)
        finally:
            timer.cancel()
        if answer is not None:
            return answer
        status = self._stopped()
        if late.is_set():
            raise _bound(f"takes more than {bounds.TEMPLATE_WAIT_SECONDS:g} seconds")
        if reached_processor_limit(status):
            raise _bound(f"takes more than {bounds.TEMPLATE_SECONDS:g} seconds of processor time")
        raise _bound(f"ends the process that renders it (status {status})")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._stopped()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM, self._file, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            first = (bounds.TEMPLATE_MEMORY_BYTES, bounds.TEMPLATE_SECONDS)
            _send(self._process, pickle.dumps(first))
        return self._process

    def _stopped(self) -> int:
        """Return the status of the process after its end."""
        process, self._process = self._process, None
        assert process is not None  # noqa: S101
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        return process.wait()


def _send(process: subprocess.Popen[bytes], request: bytes) -> None:
    assert process.stdin is not None  # noqa: S101
    with contextlib.suppress(OSError):  # it ended: there will be no answer
        process.stdin.write(struct.pack("<Q", len(request)) + request)
        process.stdin.flush()


def _received(process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """Return the process's answer; None if it ended before."""
    assert process.stdout is not None  # noqa: S101
    head = process.stdout.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    body = process.stdout.read(length) if length <= bounds.TEMPLATE_MEMORY_BYTES else b""
    answer: dict[str, Any] | None = json.loads(body) if body else None
    return answer


_renderers: dict[tuple[int, str], _Renderer] = {}
"""By the process that uses it, for a forked one has to start its own, and by transformers' file."""


@atexit.register
def _close() -> None:
    for (process, _), renderer in _renderers.items():
        if process == os.getpid():
            renderer.close()


def _renderer(file: str) -> _Renderer:
    return _renderers.setdefault((os.getpid(), file), _Renderer(file))


def _bound(reason: str) -> RunError:
    return RunError("M745", reason=reason)


def _length(values: Any) -> int:
    """Return the number of characters in values."""
    if isinstance(values, str):
        return len(values)
    if isinstance(values, Mapping):
        return sum(_length(key) + _length(value) for key, value in values.items())
    return sum(map(_length, values)) if isinstance(values, list | tuple) else 8
