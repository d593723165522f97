"""The log of a server: a line of JSON for each request and each thing that went wrong.

It has no secrets: of a request it has the route, never its query, its headers or its body, and of
the path only what names a module. What other libraries log is redacted.
"""

from __future__ import annotations

import datetime
import logging
import sys
import traceback
from typing import Any

import msgspec

from modpkg.core.printable import one_line
from modpkg.core.redacted import redacted

LOGGER = logging.getLogger("modpkg.server")
_FIELDS = "fields"
_SHOWN = ("name", "version", "number")
"""Parts of a path that are logged: they name what anybody may know of."""


def log(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Write a line about something that happened."""
    LOGGER.log(level, event, extra={_FIELDS: fields})


def log_failure(error: BaseException, **fields: Any) -> None:
    """Write a line about an error that nobody foresaw, with where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    at = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
    kind = type(error).__name__
    log("failure", level=logging.ERROR, error=kind, message=redacted(str(error)), at=at, **fields)


def route_of(scope: Any) -> str:
    """Return the route that answers a request, as a template; ``-`` where there is none.

    >>> route_of({"path_template": "/modules/{name:str}"})
    '/modules/{name}'
    """
    template: str = scope.get("path_template") or "-"
    parts = template.split("/")
    return "/".join(
        f"{{{part[1:-1].partition(':')[0]}}}" if part.startswith("{") else part for part in parts
    )


def shown_path(scope: Any) -> str:
    """Return a request's path without what may be secret in it: the template, with names."""
    values = scope.get("path_params") or {}
    parts = []
    for part in route_of(scope).split("/"):
        key = part[1:-1] if part.startswith("{") else ""
        known = key in _SHOWN and key in values
        parts.append(one_line(str(values[key]))[:100] if known else part)
    return "/".join(parts)


class JsonLines(logging.Formatter):
    """Writes each record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = getattr(record, _FIELDS, None)
        at = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        line: dict[str, Any] = {
            "time": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z",
            "level": record.levelname.lower(),
        }
        if fields is None:
            line |= {"event": "library", "logger": record.name}
            line["message"] = redacted(one_line(record.getMessage()))
            if record.exc_info and record.exc_info[1] is not None:
                line["error"] = type(record.exc_info[1]).__name__
        else:
            line |= {"event": record.getMessage(), **fields}
        return msgspec.json.encode(line, enc_hook=str).decode()


def write_log(stream: Any = None) -> None:
    """Write the log of this process to a stream, by default the one for errors."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    LOGGER.setLevel(logging.INFO)
