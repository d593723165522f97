"""Signing as the CI job that runs, or whoever a token in the environment names: without a key.

Sigstore's client makes a key for this one signature, asks Fulcio for a certificate with the
identity of the token, and puts the signature into the transparency log, where anyone can read who
signed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

from modpkg.core import bounds
from modpkg.core.errors import TrustError
from modpkg.core.extras import require_extra
from modpkg.core.files import shown
from modpkg.core.home import config_path
from modpkg.trust.sigstore_bundle import WHAT, client_config, trust_config, verify_certified

OIDC = "oidc"
ID_TOKEN = "SIGSTORE_ID_TOKEN"  # noqa: S105 - a variable's name
T = TypeVar("T")
_WHAT = "the OpenID Connect identity of this job"


class AmbientIdentity:
    """The identity of the job that runs, to sign with."""

    def __init__(self) -> None:
        """Check that there is one, before work begins that would be lost.

        Raises:
            MissingExtra: Sigstore's client is not installed.
            TrustError: There is none here.
        """
        require_extra("sigstore", what=WHAT, extra="sigstore")
        _token()

    def sign_statement(self, payload: bytes) -> bytes:
        """Return the bundle of a signed statement, as one line of JSON, verified.

        Raises:
            TrustError: Fulcio, the log or the issuer refuses or does not answer.
        """
        from sigstore.dsse import Statement
        from sigstore.errors import TUFError
        from sigstore.oidc import IdentityError, IdentityToken
        from sigstore.sign import SigningContext

        config = trust_config()
        token = _token()  # again: those of some CIs hold for five minutes

        def sign() -> bytes:
            identity = IdentityToken(token)  # before anybody is asked
            context = SigningContext.from_trust_config(client_config(config, offline=False))
            with context.signer(identity) as signer:
                return signer.sign_dsse(Statement(payload)).to_json().encode()

        try:
            bundle = _in_time(sign)
        except TrustError:
            raise
        except IdentityError:
            reason = "its token is malformed, for another audience than 'sigstore', or expired"
            raise TrustError("M547", what=_WHAT, reason=reason) from None
        except TUFError:
            reason = (
                "what the public Sigstore is could not be brought up to date; try again where "
                "tuf-repo-cdn.sigstore.dev can be reached, or set trust-config under [sigstore] "
                f"of {shown(config_path())}"
            )
            raise TrustError("M547", what=_WHAT, reason=reason) from None
        except Exception as error:  # of three services, through two HTTP clients
            said = str(error) or str(error.__cause__ or type(error).__name__)
            reason = " ".join(said.split()).replace(token, "…")[:300]
            raise TrustError("M547", what=_WHAT, reason=reason) from None
        verify_certified(bundle)
        return bundle


def _in_time(work: Callable[[], T]) -> T:
    """Return what work returns that may wait for ever: Sigstore's client sets no time for answers.

    Raises:
        TrustError: It takes too long.
        Exception: What it raises.
    """
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    # One that waits still when the command ends does not hold it up.
    threading.Thread(target=run, name="modpkg-identity", daemon=True).start()
    try:
        return found.result(bounds.IDENTITY_SECONDS)
    except FutureTimeout:  # of Python 3.10, which is no TimeoutError
        if found.done():
            raise
        reason = f"a service has not answered in {bounds.IDENTITY_SECONDS} seconds; try again"
        raise TrustError("M547", what=_WHAT, reason=reason) from None


def _token() -> str:
    """Return an identity token for Sigstore: the environment's, or one that the CI gives.

    Raises:
        TrustError: There is none.
    """
    from sigstore.oidc import IdentityError, detect_credential

    try:
        found = os.environ.get(ID_TOKEN, "").strip() or _in_time(detect_credential)
    except IdentityError as error:
        reason = " ".join(str(error).split())
        raise TrustError("M547", what=_WHAT, reason=reason[:300]) from None
    if not found:
        reason = (
            "nothing here gives one; a job of GitHub Actions needs 'permissions: id-token: write', "
            f"and elsewhere {ID_TOKEN} has a token for the audience 'sigstore'"
        )
        raise TrustError("M547", what=_WHAT, reason=reason)
    return found
