"""Trusted publishing: a CI job publishes a module without a secret that anybody keeps.

An owner names the job by its repository, workflow and environment. Its CI signs a token that says
which job runs, for this server; the server gives a token of its own for it, once, for some minutes
and for that module alone. What is said of a job depends on the issuer: GitHub's and GitLab's claims
are theirs, all others use the plain words.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Struct
from sqlalchemy import delete as delete_rows
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from modpkg.core.errors import AccessRefused, InvalidValue, NotFound, PublishError
from modpkg.core.names import module_name
from modpkg.registry.api_records import (
    IdentityToken,
    NewToken,
    PublisherInfo,
    PublisherList,
    PublisherRequest,
    TokenAudience,
)
from modpkg.server.api_tokens import add_token, end_tokens
from modpkg.server.callers import Caller, check_known
from modpkg.server.clock import now, shown
from modpkg.server.events import log_event
from modpkg.server.issuers import VerifiedToken, issuer_of, refused_token
from modpkg.server.owners import found_module
from modpkg.server.settings import GITHUB, GITLAB
from modpkg.server.state import Server
from modpkg.server.tables import Account, ApiToken, TrustedPublisher, UsedIdToken

MINUTES = 15
"""How long the token of a job is valid."""
ACTIONS = ("read", "publish", "submit")
MOST = 20
"""Trusted publishers of one module."""
_REPOSITORY = re.compile(r"[\w.-]+(?:/[\w.-]+)+", re.ASCII)
_WORKFLOWS = ".github/workflows/"
"""Where GitHub has the files of workflows, none of them in a folder within."""
_WORKFLOW = re.compile(r"[\w.-]+(?:/[\w.-]+)*", re.ASCII)


class CiJob(Struct, frozen=True):
    """Which job runs, as its issuer says."""

    repository: str
    workflow: str
    environment: str
    repository_id: str
    """A number that no other repository gets, even if it gets the same name later; empty if the
    issuer tells none."""

    def __str__(self) -> str:
        environment = f" in {self.environment}" if self.environment else ""
        return f"{self.workflow} of {self.repository}{environment}"


def job_of(token: VerifiedToken) -> CiJob:
    """Return which job a token is of."""
    environment = token.text("environment")
    if token.issuer == GITHUB:
        repository = token.text("repository")
        inner = _within(token.text("workflow_ref"), f"{repository}/{_WORKFLOWS}")
        return CiJob(repository, inner, environment, token.text("repository_id"))
    if token.issuer == GITLAB:
        repository = token.text("project_path")
        inner = _within(token.text("ci_config_ref_uri"), f"gitlab.com/{repository}//")
        return CiJob(repository, inner, environment, token.text("project_id"))
    repository, workflow = token.text("repository"), token.text("workflow")
    return CiJob(repository, workflow, environment, token.text("repository_id"))


def _within(reference: str, start: str) -> str:
    """Return the file of a workflow, of a reference ``START FILE@REF``; empty for another."""
    path, _, ref = reference.partition("@")
    if not ref or not path.lower().startswith(start.lower()):
        return ""
    return path[len(start) :]


def fits(publisher: TrustedPublisher, job: CiJob) -> bool:
    """Return whether a job is the one that a trusted publisher names."""
    claims = publisher.claims
    if not job.repository or not job.workflow:
        return False
    pinned = claims.get("repository_id")
    return (
        claims["repository"].lower() == job.repository.lower()
        and claims["workflow"] == job.workflow
        and claims["environment"].lower() in ("", job.environment.lower())
        and pinned in (None, job.repository_id)
    )


def add_publisher(
    db: Session, server: Server, caller: Caller, module: str, wanted: PublisherRequest
) -> PublisherInfo:
    """Let a CI job publish a module.

    Raises:
        NotFound, AccessRefused: The caller does not own the module.
        InvalidValue: It is no job of an issuer that the operator allows.
        PublishError: The module has too many.
    """
    account_id = check_known(caller, "manage", module)
    found = found_module(db, caller, module, "manage")
    issuers = server.settings.publishing_issuers
    spelled = wanted.issuer.rstrip("/")
    issuer = next((one for one in issuers if one.rstrip("/") == spelled), None)
    if issuer is None:
        known = ", ".join(issuers) or "none"
        reason = f"{wanted.issuer} is not an issuer for jobs here ({known} are)"
        raise PublishError("M449", reason=reason)
    workflow = wanted.workflow
    if issuer.rstrip("/") == GITHUB:
        workflow = workflow.removeprefix(_WORKFLOWS)
        if "/" in workflow:
            reason = f"GitHub runs workflows of {_WORKFLOWS} alone; name one, as release.yml"
            raise PublishError("M449", reason=reason)
    if not _REPOSITORY.fullmatch(wanted.repository) or not _WORKFLOW.fullmatch(workflow):
        raise PublishError(
            "M449",
            reason="a job is named by its repository, OWNER/NAME, and the file of a workflow",
        )
    row = TrustedPublisher(
        module=found.name,
        issuer=issuer,
        claims={
            "repository": wanted.repository,
            "workflow": workflow,
            "environment": wanted.environment,
        },
        created_by=account_id,
        created=now(),
    )
    if len(_publishers(db, found.name)) >= MOST:
        raise PublishError("M449", reason=f"{found.name} has {MOST} trusted publishers already")
    db.add(row)
    db.flush()
    log_event(db, caller.name, "publisher.add", found.name, **row.claims, issuer=issuer)
    return info_of(db, row)


def remove_publisher(db: Session, caller: Caller, module: str, number: int) -> None:
    """Let a CI job publish a module no more; its tokens end.

    Raises:
        NotFound, AccessRefused: There is none of this number, or the module is not the caller's.
    """
    found = found_module(db, caller, module, "manage")
    row = db.get(TrustedPublisher, number)
    if row is None or row.module != found.name or row.removed is not None:
        raise NotFound("M439", what="trusted publisher", name=str(number))
    row.removed = now()
    theirs = select(ApiToken.id).where(ApiToken.publisher_id == number)
    end_tokens(db, [*db.scalars(theirs)])
    log_event(db, caller.name, "publisher.remove", found.name, **row.claims, issuer=row.issuer)


def publishers_of(db: Session, caller: Caller, module: str) -> list[PublisherInfo]:
    """Return the CI jobs that may publish a module; for those who own it.

    Raises:
        NotFound, AccessRefused: The caller does not own the module.
    """
    found = found_module(db, caller, module, "manage")
    return [info_of(db, row) for row in _publishers(db, found.name)]


def _publishers(db: Session, module: str) -> list[TrustedPublisher]:
    query = select(TrustedPublisher).where(
        TrustedPublisher.module == module, TrustedPublisher.removed.is_(None)
    )
    return [*db.scalars(query.order_by(TrustedPublisher.id))]


def info_of(db: Session, row: TrustedPublisher) -> PublisherInfo:
    """Return what the API says of a trusted publisher."""
    return PublisherInfo(
        id=row.id,
        issuer=row.issuer,
        repository=row.claims["repository"],
        workflow=row.claims["workflow"],
        environment=row.claims["environment"],
        created_by=db.get_one(Account, row.created_by).name,
        created=shown(row.created),
    )


def exchange_token(server: Server, text: str, module: str) -> NewToken:
    """Return a token for a CI job, which lasts some minutes and is for one module.

    Args:
        server: The server.
        text: The token by which the job's issuer says which job runs.
        module: The module that the job is going to publish.

    Raises:
        AccessRefused: The token is not valid, was used before, or of a job that may not publish it.
        RegistryUnreachable: The issuer cannot be asked for its keys.
    """
    issuer = issuer_of(text)
    if issuer not in server.settings.publishing_issuers:
        raise refused_token(issuer, "this server does not know the issuer")
    token = server.issuers.verified(issuer, text, server.settings.url)
    job = job_of(token)
    try:
        name = str(module_name(module))
    except InvalidValue:
        name = module
    with server.database.begin() as db:
        row = next((one for one in _publishers(db, name) if _trusts(db, one, token, job)), None)
        if row is None:
            raise AccessRefused("M443", module=name, job=str(job))
        use_once(db, token)
        if job.repository_id and "repository_id" not in row.claims:
            row.claims = {**row.claims, "repository_id": job.repository_id}
        expires = now() + datetime.timedelta(minutes=MINUTES)
        made = add_token(
            db, row.created_by, str(job), ACTIONS, [name], expires, publisher_id=row.id
        )
        details: dict[str, Any] = {"job": str(job), "token": made.info.id}
        log_event(db, made.account, "publisher.token", name, **details)
    return made


def _trusts(db: Session, row: TrustedPublisher, token: VerifiedToken, job: CiJob) -> bool:
    if row.issuer != token.issuer or not fits(row, job):
        return False
    return db.get_one(Account, row.created_by).disabled is None


def use_once(db: Session, token: VerifiedToken) -> None:
    """Remember a token, which is not taken again.

    Raises:
        AccessRefused: It was taken before.
    """
    db.execute(delete_rows(UsedIdToken).where(UsedIdToken.expires < now()))
    keep = datetime.datetime.fromtimestamp(token.expires + 3600, datetime.timezone.utc)
    try:
        with db.begin_nested():
            db.add(UsedIdToken(issuer=token.issuer, token=token.identity, expires=keep))
    except IntegrityError:
        raise refused_token(token.issuer, "it was used already") from None


@get("/api/1/modules/{name:str}/trusted-publishers", sync_to_thread=True)
def list_publishers(
    server: NamedDependency[Server], caller: NamedDependency[Caller], name: FromPath[str]
) -> PublisherList:
    """Return the CI jobs that may publish a module."""
    with server.database.begin() as db:
        return PublisherList(publishers_of(db, caller, name))


@post("/api/1/modules/{name:str}/trusted-publishers", sync_to_thread=True)
def make_publisher(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    data: JSONBody[PublisherRequest],
) -> PublisherInfo:
    """Let a CI job publish a module."""
    with server.database.begin() as db:
        return add_publisher(db, server, caller, name, data)


@delete("/api/1/modules/{name:str}/trusted-publishers/{number:int}", sync_to_thread=True)
def drop_publisher(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    number: FromPath[int],
) -> None:
    """Let a CI job publish a module no more."""
    with server.database.begin() as db:
        remove_publisher(db, caller, name, number)


@get("/api/1/oidc/audience", sync_to_thread=False)
def show_audience(server: NamedDependency[Server]) -> TokenAudience:
    """Return whom a CI job's token has to be for."""
    return TokenAudience(server.settings.url)


@post("/api/1/oidc/token", sync_to_thread=True)
def make_job_token(server: NamedDependency[Server], data: JSONBody[IdentityToken]) -> NewToken:
    """Return a token for a CI job."""
    return exchange_token(server, data.token, data.module)


ROUTES = [list_publishers, make_publisher, drop_publisher, show_audience, make_job_token]
