"""What `huggingface_hub` makes its requests with, which is slow to make and kept."""

from __future__ import annotations

import functools
import os
import sys
from typing import Any


@functools.cache
def http_library(hub: Any) -> Any:
    """Return the library of HTTP that ``hub``, which is `huggingface_hub`, uses."""
    return sys.modules[type(hub.get_session()).__module__.partition(".")[0]]


def trusted(http: Any) -> Any:
    """Return what certificates are checked with: reading all authorities takes 0.1 s."""
    return _trusted(http, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@functools.cache
def _trusted(http: Any, *variables: str | None) -> Any:
    return http.create_ssl_context()
