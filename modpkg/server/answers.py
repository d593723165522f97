"""Errors as answers: a code, a sentence, and a status that fits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException
from litestar.exceptions.responses import create_exception_response

from modpkg.core.decoding import decoding_reason
from modpkg.core.errors import (
    AccessRefused,
    InvalidValue,
    ModpkgError,
    NotFound,
    PublishError,
    RecordError,
    RegistryUnreachable,
    ReleaseError,
    UsageError,
)
from modpkg.registry.api_records import ErrorAnswer
from modpkg.registry.session_records import OFFSET
from modpkg.server.state import Server

STATUS: dict[type[ModpkgError], int] = {
    AccessRefused: 403,
    NotFound: 404,
    UsageError: 400,
    InvalidValue: 400,
    RecordError: 422,
    ReleaseError: 422,
    PublishError: 409,
    RegistryUnreachable: 503,
}
BY_CODE = {
    **dict.fromkeys(["M430", "M431", "M433"], 401),
    **dict.fromkeys(["M457"], 403),
    **dict.fromkeys(["M451", "M458", "M593", "M599"], 413),
    **dict.fromkeys(["M452"], 422),
    **dict.fromkeys(["M434", "M484"], 429),
    **dict.fromkeys(["M550", "M555", "M556"], 503),  # the log: it is for who runs the server
    **dict.fromkeys(["M597"], 503),  # its clock, too
}
_PLACES = frozenset(["address", "registry", "source", "url", "where"])
"""Values of errors that may say where a registry lies: nothing for callers of a server."""
_AGAIN = {"M455": "1"}
"""Code to the seconds after which to ask again."""


def status_of(error: ModpkgError) -> int:
    """Return the HTTP status of an error."""
    if (status := BY_CODE.get(error.code)) is not None:
        return status
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 422)


def sentence_for_callers(server: Server, error: ModpkgError) -> str:
    """Return the sentence of an error, with the server's address in place of its storage's."""
    roots = [str(one.url) for one in (server.private, server.place) if one is not None]
    shown = {key: _without_roots(server, key, value, roots) for key, value in error.values.items()}
    return str(error if shown == error.values else type(error)(error.code, **shown))


def _without_roots(server: Server, key: str, value: Any, roots: Iterable[str]) -> Any:
    """Return a value of an error without the places of the storage, which may be in a reason."""
    text = str(value) if key in _PLACES or isinstance(value, Path) else value
    if not isinstance(text, str):
        return value
    for root in roots:
        if "/" in root or key in _PLACES:  # a relative folder may be called as any word is
            own = rf"(?<![\w.-]){re.escape(root)}(?![\w.-])"
            text = re.sub(own, lambda _: server.settings.url, text)
    return value if text == str(value) else text


def error_answer(request: Request, error: ModpkgError) -> Response[ErrorAnswer]:  # type: ignore[type-arg]
    """Return the answer to a request that was refused."""
    status = status_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if (seconds := _AGAIN.get(error.code)) is not None:
        headers["Retry-After"] = seconds
    if (found := error.values.get("found")) is not None and error.code == "M454":
        headers[OFFSET] = str(found)
    if status == 429:
        headers["Retry-After"] = str(error.values["seconds"])
    sentence = sentence_for_callers(request.app.state.server, error)
    content = ErrorAnswer(error.code, sentence)
    return Response(content, status_code=status, headers=headers, media_type=MediaType.JSON)


def malformed_answer(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """Return the answer to a request that the framework refused: one of the API as the others."""
    if not request.url.path.startswith("/api/"):
        return create_exception_response(request, error)
    refused = UsageError("M459", reason=_reason(error))
    return Response(
        ErrorAnswer(refused.code, str(refused)),
        status_code=error.status_code,
        headers=dict(error.headers or {}),
        media_type=MediaType.JSON,
    )


def _reason(error: HTTPException) -> str:
    """Return what the framework says of a request; of a body, what is wrong in it first."""
    said = error.extra[0] if isinstance(error.extra, list) and error.extra else None
    text = error.detail
    if isinstance(said, dict) and isinstance(said.get("message"), str):
        key = said.get("key")
        at = f" - at `$.{key}`" if key and key != "data" else ""  # which is all of the body
        text = said["message"] + at
    return decoding_reason(ValueError(text))[:200] or "it is malformed"


def value_answer(request: Request[Any, Any, Any], _: Exception) -> Response[ErrorAnswer]:
    """Return the answer to a value that no row has: a number too large, a text with a NUL."""
    error = UsageError("M459", reason="a value in it cannot be one of anything here")
    return error_answer(request, error)


def database_answer(request: Request[Any, Any, Any], _: Exception) -> Response[ErrorAnswer]:
    """Return the answer where the database cannot be reached: nothing was done, ask again."""
    url = str(request.base_url).rstrip("/")
    answer = error_answer(
        request, RegistryUnreachable("M302", url=url, reason="its database does not answer")
    )
    answer.headers["Retry-After"] = "1"
    return answer
