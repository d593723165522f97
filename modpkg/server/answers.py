"""Errors as answers: a code, a sentence, and a status that fits."""

from __future__ import annotations

from litestar import MediaType, Request, Response

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
    **dict.fromkeys(["M451", "M458"], 413),
    **dict.fromkeys(["M452"], 422),
    **dict.fromkeys(["M434", "M484"], 429),
}
_AGAIN = {"M455": "1"}
"""Code to the seconds after which to ask again."""


def status_of(error: ModpkgError) -> int:
    """Return the HTTP status of an error."""
    if (status := BY_CODE.get(error.code)) is not None:
        return status
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 422)


def error_answer(_: Request, error: ModpkgError) -> Response[ErrorAnswer]:  # type: ignore[type-arg]
    """Return the answer to a request that was refused."""
    status = status_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if (seconds := _AGAIN.get(error.code)) is not None:
        headers["Retry-After"] = seconds
    if (found := error.values.get("found")) is not None and error.code == "M454":
        headers[OFFSET] = str(found)
    if status == 429:
        headers["Retry-After"] = str(error.values["seconds"])
    content = ErrorAnswer(error.code, str(error))
    return Response(content, status_code=status, headers=headers, media_type=MediaType.JSON)
