"""The addresses of the pages that are only read."""

from __future__ import annotations

import posixpath
from typing import Annotated, Any
from urllib.parse import quote

from litestar import Request, Response, Router, get
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException, NotFoundException
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Redirect
from litestar.status_codes import HTTP_500_INTERNAL_SERVER_ERROR

from modpkg.core.errors import InvalidValue, ModpkgError
from modpkg.core.names import module_name
from modpkg.core.records import KINDS, IndexLine, ModuleLine
from modpkg.core.regular_file import read_file
from modpkg.server.answers import malformed_answer, sentence_for_callers, status_of
from modpkg.server.callers import Caller
from modpkg.server.pages.candidates import ShownResult, latest_results
from modpkg.server.pages.catalogue import Catalogue, ModuleReleases, no_page
from modpkg.server.pages.compare import compare_page
from modpkg.server.pages.front import FrontPage
from modpkg.server.pages.head import ModuleHead, module_head
from modpkg.server.pages.module import module_page, versions_page
from modpkg.server.pages.people import (
    ModulePeople,
    events_page,
    module_people,
    most_downloaded,
    person_page,
)
from modpkg.server.pages.readme import IMAGES
from modpkg.server.pages.rendering import HEADERS, STATIC, frame_of, page
from modpkg.server.pages.tensors import tensors_page
from modpkg.server.rights import visible, visible_private
from modpkg.server.state import Server

Number = Annotated[int, QueryParameter(name="page", ge=1, le=1_000_000)]
QUERY_CHARACTERS = 200
_IMAGE_BYTES = 2 << 20
_STATIC_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FRONT = 8
"""Modules in each list of the front page."""
_TITLES = {
    400: "This address says nothing that this registry understands",
    401: "Log in first",
    403: "This is not yours to do",
    404: "There is no such page",
    503: "The registry's storage does not answer",
}


class MovedPage(Exception):
    """A page is at another address: that of the normal form of a name."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address


def find_module(
    server: Server, caller: Caller, name: str
) -> tuple[Catalogue, ModuleReleases, ModulePeople]:
    """Return the module of a page.

    Raises:
        NotFound: There is none, or the caller may not see it.
        MovedPage: The name is not in its normal form.
    """
    catalogue, releases, people = find_proposed(server, caller, name)
    if releases is None:
        raise no_page(name)
    return catalogue, releases, people


def find_proposed(
    server: Server, caller: Caller, name: str
) -> tuple[Catalogue, ModuleReleases | None, ModulePeople]:
    """Return the module of a page, which may have no release yet.

    Raises:
        NotFound: The caller may not see it, or it has no name that a module can have.
        MovedPage: The name is not in its normal form.
    """
    try:
        normal = module_name(name)
    except InvalidValue:
        raise no_page(name) from None
    with server.database.begin() as db:
        people = module_people(db, normal)
        is_visible = visible(db, caller, normal)
    if not is_visible:
        raise no_page(normal)
    catalogue = server.private_catalogue if people.is_private else server.catalogue
    releases = catalogue.releases_or_none(normal)
    if normal != name and releases is not None:
        raise MovedPage(f"/modules/{quote(normal)}")
    return catalogue, releases, people


def head_of(
    server: Server,
    catalogue: Catalogue,
    releases: ModuleReleases,
    people: ModulePeople,
    line: IndexLine,
    current: str,
) -> ModuleHead:
    """Return the head of a page about a module."""
    return module_head(
        catalogue,
        releases,
        line,
        current=current,
        address=server.settings.url,
        candidates=sum(one.status == "open" for one in catalogue.candidates(line.name)),
        archived=people.archived,
        is_private=people.is_private,
    )


@get("/", sync_to_thread=True)
def front(server: NamedDependency[Server], caller: NamedDependency[Caller]) -> Response[str]:
    """The front page."""
    modules = server.catalogue.modules()
    with server.database.begin() as db:
        names = most_downloaded(db, _FRONT)
    return page(
        frame_of(server, caller),
        "front.html",
        "Modules",
        page=FrontPage(
            total=len(modules.lines),
            kinds=modules.kinds,
            newest=tuple(modules.newest[:_FRONT]),
            most=tuple(modules.lines[name] for name in names if name in modules.lines),
        ),
    )


@get("/search", sync_to_thread=True)
def search(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    q: FromQuery[str] = "",
    kind: FromQuery[str] = "",
    number: Number = 1,
) -> Response[str]:
    """Search modules."""
    kind = kind if kind in KINDS else ""
    also: list[ModuleLine] = []
    if caller.is_known and server.private is not None:
        with server.database.begin() as db:
            names = visible_private(db, caller)
        lines = server.private_catalogue.modules().lines if names else {}
        also = [lines[name] for name in names if name in lines]
    found = server.catalogue.modules().search(q[:QUERY_CHARACTERS], kind, number, also)
    title = f"Modules for {found.query}" if found.query else "Modules"
    return page(frame_of(server, caller), "search.html", title, page=found, kinds=KINDS)


@get("/modules/{name:str}", sync_to_thread=True)
def newest(
    server: NamedDependency[Server], caller: NamedDependency[Caller], name: FromPath[str]
) -> Response[str]:
    """A module, by its newest release."""
    catalogue, releases, people = find_module(server, caller, name)
    return _module(server, caller, catalogue, releases, people, releases.newest)


@get("/modules/{name:str}/{version:str}", sync_to_thread=True)
def version(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    version: FromPath[str],
) -> Response[str]:
    """A version of a module."""
    catalogue, releases, people = find_module(server, caller, name)
    return _module(server, caller, catalogue, releases, people, releases.find(version))


def _module(
    server: Server,
    caller: Caller,
    catalogue: Catalogue,
    releases: ModuleReleases,
    people: ModulePeople,
    line: IndexLine,
) -> Response[str]:
    shown = module_page(catalogue, releases, line)
    return page(
        frame_of(server, caller),
        "module.html",
        f"{line.name} {line.version}",
        description=shown.facts.summary,
        head=head_of(server, catalogue, releases, people, line, "overview"),
        page=shown,
        people=people,
        results=_results(catalogue, line),
    )


def _results(catalogue: Catalogue, line: IndexLine) -> dict[str, ShownResult]:
    """Return the results of a release's tests, as they were reported when it was a candidate."""
    for one in catalogue.candidates(line.name):
        if one.line.release == line.release and one.status == "accepted":
            return latest_results(catalogue.thread(line.name, one.number))
    return {}


@get("/modules/{name:str}/versions", sync_to_thread=True)
def versions(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    number: Number = 1,
) -> Response[str]:
    """All versions of a module."""
    catalogue, releases, people = find_module(server, caller, name)
    return page(
        frame_of(server, caller),
        "versions.html",
        f"Versions of {name}",
        head=head_of(server, catalogue, releases, people, releases.newest, "versions"),
        page=versions_page(releases, number),
    )


@get("/modules/{name:str}/{version:str}/tensors", sync_to_thread=True)
def tensors(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    version: FromPath[str],
    layer: FromQuery[str] = "",
    number: Number = 1,
) -> Response[str]:
    """The tensors of a version."""
    catalogue, releases, people = find_module(server, caller, name)
    line = releases.find(version)
    return page(
        frame_of(server, caller),
        "tensors.html",
        f"Tensors of {line.name} {line.version}",
        head=head_of(server, catalogue, releases, people, line, "tensors"),
        page=tensors_page(catalogue, releases, line, layer, number),
    )


@get("/modules/{name:str}/{version:str}/files/{path:path}", sync_to_thread=True)
def image(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    version: FromPath[str],
    path: FromPath[str],
) -> Response[bytes]:
    """An image that a README shows; of no other type, whatever the file is."""
    catalogue, releases, _ = find_module(server, caller, name)
    path = path.lstrip("/")
    kind = IMAGES.get(posixpath.splitext(path)[1].lower())
    if kind is None:
        raise no_page(path)
    data = catalogue.file(releases.find(version), path, _IMAGE_BYTES)
    headers = HEADERS | {"Content-Security-Policy": "default-src 'none'; sandbox"}
    return Response(data, media_type=kind, headers=headers)


@get("/modules/{name:str}/compare", sync_to_thread=False)
def compare_chosen(
    name: FromPath[str],
    before: Annotated[str, QueryParameter(name="from")],
    after: Annotated[str, QueryParameter(name="to")],
) -> Redirect:
    """The comparison that the form asks for."""
    address = "/".join(quote(part, safe="") for part in (name, "compare", before, after))
    return Redirect(f"/modules/{address}")


@get("/modules/{name:str}/compare/{before:str}/{after:str}", sync_to_thread=True)
def compare(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    before: FromPath[str],
    after: FromPath[str],
) -> Response[str]:
    """How two versions differ."""
    catalogue, releases, people = find_module(server, caller, name)
    shown = compare_page(catalogue, releases, before, after)
    return page(
        frame_of(server, caller),
        "compare.html",
        f"{name} {shown.before.version} and {shown.after.version}",
        head=head_of(server, catalogue, releases, people, shown.after, "compare"),
        page=shown,
    )


@get("/people/{name:str}", sync_to_thread=True)
def person(
    server: NamedDependency[Server], caller: NamedDependency[Caller], name: FromPath[str]
) -> Response[str]:
    """A person."""
    return _account(server, caller, name, is_organisation=False)


@get("/organisations/{name:str}", sync_to_thread=True)
def organisation(
    server: NamedDependency[Server], caller: NamedDependency[Caller], name: FromPath[str]
) -> Response[str]:
    """An organisation."""
    return _account(server, caller, name, is_organisation=True)


def _account(server: Server, caller: Caller, name: str, *, is_organisation: bool) -> Response[str]:
    modules = server.catalogue.modules()
    with server.database.begin() as db:
        shown = person_page(db, modules, name, is_organisation=is_organisation)
    return page(frame_of(server, caller), "person.html", shown.name, page=shown)


@get("/events", sync_to_thread=True)
def events(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    module: FromQuery[str] = "",
    before: Annotated[int | None, QueryParameter(ge=1, le=1 << 62)] = None,
) -> Response[str]:
    """The event log."""
    with server.database.begin() as db:
        shown = events_page(db, caller, module[:100], before)
    return page(frame_of(server, caller), "events.html", "Events", page=shown)


@get("/static/{name:str}", sync_to_thread=True)
def static(name: FromPath[str]) -> Response[bytes]:
    """The style sheet, the script and the icon."""
    kind = _STATIC_TYPES.get(posixpath.splitext(name)[1])
    if kind is None or name not in {path.name for path in STATIC.iterdir()}:
        raise no_page(name)
    headers = HEADERS | {"Cache-Control": "public, max-age=31536000, immutable"}
    del headers["Vary"]
    return Response(read_file(STATIC / name), media_type=kind, headers=headers)


def failed(request: Request[Any, Any, Any], _: Exception) -> Response[Any]:
    """Return the answer where this server made a mistake, which its log has."""
    return page(
        frame_of(request.app.state.server, None),
        "error.html",
        "This server made a mistake",
        status=500,
        sentence="What went wrong is in its log. Try again, or tell who runs it.",
        wanted="",
        searches=False,
        near=[],
    )


def moved(_: Request[Any, Any, Any], error: MovedPage) -> Redirect:
    """Return the answer where a page is at another address."""
    return Redirect(error.address, status_code=301)


def error_page(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Return the answer to a request for a page that was refused."""
    server: Server = request.app.state.server
    if isinstance(error, ModpkgError):
        status, sentence = status_of(error), sentence_for_callers(server, error)
    elif isinstance(error, HTTPException):
        status, sentence = error.status_code, error.detail
    else:
        raise error
    wanted, near = request.url.path.strip("/").rpartition("/")[2][:100], list[str]()
    if status == 404:
        near = server.catalogue.modules().near(wanted)
    return page(
        frame_of(server, request.state.get("caller")),
        "error.html",
        _TITLES.get(status, "This did not work"),
        status=status,
        sentence=sentence,
        searches=status == 404,
        wanted=wanted,
        near=near,
    )


def nothing_here(request: Request[Any, Any, Any], error: NotFoundException) -> Response[Any]:
    """Return the answer for an address that is of nothing: a page for browsers."""
    wants_page = "text/html" in request.headers.get("accept", "")
    if wants_page and not request.url.path.startswith("/api/"):
        return error_page(request, no_page(request.url.path[:200]))
    return malformed_answer(request, error)


ERRORS: dict[Any, Any] = {
    ModpkgError: error_page,
    HTTPException: error_page,
    MovedPage: moved,
    HTTP_500_INTERNAL_SERVER_ERROR: failed,
}
"""By the error, what a browser is answered."""

SITE = Router(
    "/",
    route_handlers=[
        *(front, search, newest, version, versions, tensors, image, compare_chosen, compare),
        *(person, organisation, events, static),
    ],
    exception_handlers=ERRORS,
    include_in_schema=False,
)
