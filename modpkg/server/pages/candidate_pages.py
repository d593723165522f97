"""The addresses of the pages of candidates."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

from litestar import Request, Response, Router, get, post
from litestar.di import NamedDependency
from litestar.enums import RequestEncodingType
from litestar.params import Body, FromPath, FromQuery
from litestar.response import Redirect
from msgspec import Meta, Struct

from modpkg.core.bounds import COMMENT_CHARACTERS
from modpkg.core.candidates import CandidateLine, CandidateStatus
from modpkg.core.errors import ModpkgError, UsageError
from modpkg.server.answers import sentence_for_callers, status_of
from modpkg.server.callers import Caller
from modpkg.server.candidates import accept, decline, say
from modpkg.server.pages.candidates import candidate_page, candidates_page
from modpkg.server.pages.catalogue import Catalogue, ModuleReleases, no_page
from modpkg.server.pages.head import ModuleHead, proposed_head
from modpkg.server.pages.rendering import frame_of, page
from modpkg.server.pages.site import ERRORS, Number, find_proposed, head_of
from modpkg.server.rights import may
from modpkg.server.state import Server
from modpkg.server.web_logins import check_form

STATUSES = ("open", "accepted", "rejected", "withdrawn")
_ACTIONS = {"approve": "review", "accept": "publish"}


def _found(
    server: Server, caller: Caller, name: str
) -> tuple[Catalogue, ModuleReleases | None, list[CandidateLine], ModuleHead]:
    """Return a module that has releases or candidates.

    Raises:
        NotFound: It has neither, or the caller may not see it.
        MovedPage: The name is not in its normal form.
    """
    catalogue, releases, people = find_proposed(server, caller, name)
    candidates = catalogue.candidates(name)
    if releases is None:
        if not candidates:
            raise no_page(name)
        count = sum(one.status == "open" for one in candidates)
        head = proposed_head(candidates[-1].line, count, is_private=people.is_private)
        return catalogue, None, candidates, head
    head = head_of(server, catalogue, releases, people, releases.newest, "candidates")
    return catalogue, releases, candidates, head


@get("/modules/{name:str}/candidates", sync_to_thread=True)
def candidates(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    status: FromQuery[str] = "",
    number: Number = 1,
) -> Response[str]:
    """The candidates of a module."""
    _, _, lines, head = _found(server, caller, name)
    status = status if status in STATUSES else ""
    return page(
        frame_of(server, caller),
        "candidates.html",
        f"Candidates of {name}",
        head=head,
        page=candidates_page(name, lines, status, number),
        chosen=status,
        statuses=STATUSES,
    )


@get("/modules/{name:str}/candidates/{candidate:int}", sync_to_thread=True)
def candidate(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    candidate: FromPath[int],
    number: Number = 1,
) -> Response[str]:
    """A candidate, and what is said about it."""
    return _candidate(server, caller, name, candidate, number)


def _candidate(
    server: Server,
    caller: Caller,
    name: str,
    candidate: int,
    number: int,
    said: str = "",
    problem: str = "",
    status: int = 200,
) -> Response[str]:
    catalogue, releases, lines, head = _found(server, caller, name)
    shown = candidate_page(catalogue, releases, lines, candidate, number)
    with server.database.begin() as db:
        allowed = [act for act, needed in _ACTIONS.items() if may(db, caller, needed, name)]
    return page(
        frame_of(server, caller),
        "candidate.html",
        f"{name}#{candidate}",
        status=status,
        head=head,
        page=shown,
        may=allowed,
        said=said,
        problem=problem,
        most_characters=COMMENT_CHARACTERS,
    )


class ReviewForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the form on the page of a candidate sends."""

    csrf: Annotated[str, Meta(max_length=2000)] = ""
    act: Literal["comment", "approve", "accept", "reject", "withdraw"] = "comment"
    text: Annotated[str, Meta(max_length=2 * COMMENT_CHARACTERS)] = ""
    anyway: Literal["", "yes"] = ""


@post("/modules/{name:str}/candidates/{candidate:int}", sync_to_thread=True)
def take_part(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Request[Any, Any, Any],
    name: FromPath[str],
    candidate: FromPath[int],
    data: Annotated[ReviewForm, Body(media_type=RequestEncodingType.URL_ENCODED)],
) -> Response[Any]:
    """Comment on a candidate, approve it, or decide."""
    check_form(server, request, caller, data.csrf)
    text = data.text.replace("\r\n", "\n").strip()
    try:
        _take_part(server, caller, name, candidate, data.act, text, anyway=bool(data.anyway))
    except ModpkgError as error:
        if not caller.is_known or error.code in ("M439", "M467"):
            raise
        status = status_of(error)
        sentence = sentence_for_callers(server, error)
        return _candidate(server, caller, name, candidate, 1, data.text, sentence, status)
    address = f"/modules/{quote(name)}/candidates/{candidate}"
    return Redirect(address, status_code=303)


def _take_part(
    server: Server, caller: Caller, name: str, number: int, act: str, text: str, *, anyway: bool
) -> None:
    if act in ("comment", "approve"):
        if act == "comment" and not text:
            raise UsageError("M901", message="The comment is empty; write something.")
        say(server, caller, name, number, "approval" if act == "approve" else "comment", text)
    elif act == "accept":
        accept(server, caller, name, number, text, anyway)
    else:
        status: CandidateStatus = "rejected" if act == "reject" else "withdrawn"
        decline(server, caller, name, number, text, status)


CANDIDATES = Router(
    "/",
    route_handlers=[candidates, candidate, take_part],
    exception_handlers=ERRORS,
    include_in_schema=False,
)
