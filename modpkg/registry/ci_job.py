"""Publishing from a CI job without a secret: who the job is, says its CI, to one server alone.

GitHub gives a job that has the permission ``id-token: write`` an address and a token to ask for an
identity token with; GitLab puts one into a variable that the job names. A server gives a token of
some minutes for it. An identity token is for one audience: only a server at that very origin gets
it, since whoever else got it could show it there as the job.
"""

from __future__ import annotations

import binascii
import os
from base64 import urlsafe_b64decode
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct

from modpkg.core.errors import AccessRefused
from modpkg.manifest.logins import SentToken
from modpkg.manifest.normal_address import origin
from modpkg.registry.api_records import IdentityToken, NewToken, TokenAudience
from modpkg.registry.server_api import ServerApi

ID_TOKEN = "MODPKG_ID_TOKEN"  # noqa: S105 - a variable's name
"""The variable with a job's identity token, as GitLab's ``id_tokens`` sets it."""
GITHUB_URL = "ACTIONS_ID_TOKEN_REQUEST_URL"
GITHUB_TOKEN = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # noqa: S105


class _GivenToken(Struct):
    value: str


class _Claims(Struct):
    aud: str | list[str] = ""


def job_api(api: ServerApi, module: str) -> ServerApi | None:
    """Return a server's API as the CI job of this process asks it; None outside of such a job.

    Raises:
        AccessRefused: The job's identity is not for this server, or may not publish the module.
        RegistryUnreachable: The server or the CI cannot be asked.
    """
    given = os.environ.get(ID_TOKEN, "").strip()
    address, secret = os.environ.get(GITHUB_URL, ""), os.environ.get(GITHUB_TOKEN, "")
    if not given and not (address and secret):
        return None
    audience = api.request("GET", "oidc/audience", TokenAudience).audience
    if not _same_origin(audience, api.origin):
        reason = f"it asks for one that is for {audience}"
        raise AccessRefused("M526", url=api.origin, reason=reason)
    token = given or _of_github(address, secret, audience)
    if not _is_for(token, audience):
        raise AccessRefused("M526", url=api.origin, reason=f"it is not for {audience}")
    made = api.request("POST", "oidc/token", NewToken, IdentityToken(token, module))
    return api.with_login(SentToken(made.token))


def _of_github(address: str, secret: str, audience: str) -> str:
    """Return an identity token that GitHub gives a job.

    Raises:
        RegistryUnreachable: It gives none.
    """
    parts = urlsplit(address)
    asked = ServerApi(address, f"{parts.scheme}://{parts.netloc}", SentToken(secret))
    query = f"{parts.query}&audience={quote(audience, safe='')}"
    return asked.request("GET", f"{parts.path.lstrip('/')}?{query}", _GivenToken).value


def _same_origin(one: str, other: str) -> bool:
    try:
        return origin(one) == origin(other)
    except ValueError:
        return False


def _is_for(token: str, audience: str) -> bool:
    """Return whether an identity token says that it is for an audience; nobody has verified it."""
    try:
        _, payload, _ = token.split(".")
        data = urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        claims = msgspec.json.decode(data, type=_Claims)
    except (ValueError, binascii.Error, msgspec.MsgspecError, RecursionError):
        return False
    return audience in ([claims.aud] if isinstance(claims.aud, str) else claims.aud)
