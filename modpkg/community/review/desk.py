"""Where candidates are discussed and decided: at the files of a registry, or by its server."""

from __future__ import annotations

from typing import Protocol

from modpkg.community.review.acceptance import check_acceptance
from modpkg.core import bounds
from modpkg.core.candidates import (
    CandidateLine,
    CandidateReport,
    CandidateStatus,
    EntryKind,
    ThreadEntry,
)
from modpkg.core.names import ModuleName
from modpkg.core.this_machine import user_name
from modpkg.manifest.cutoff import moment_text
from modpkg.registry.candidate_writer import CandidateWriter
from modpkg.registry.candidates import check_open, read_candidate, read_thread
from modpkg.registry.place import Place, registry_at
from modpkg.registry.review_records import CommentRequest, DecisionRequest, ReportRequest
from modpkg.registry.server_api import ServerApi, api_path
from modpkg.registry.server_place import ServerPlace


class ReviewDesk(Protocol):
    """What somebody does with the candidates of a registry."""

    def say(
        self,
        name: ModuleName,
        number: int,
        kind: EntryKind,
        text: str,
        report: CandidateReport | None = None,
    ) -> ThreadEntry:
        """Comment on a candidate, approve it, or report what a command found out.

        Raises:
            NotFound: There is no such candidate.
            PublishError: It is decided already, which only comments may follow.
            RecordError: It cannot be said.
            AccessRefused: Whoever asks may not.
        """
        ...

    def accept(self, name: ModuleName, number: int, *, reason: str, anyway: bool) -> CandidateLine:
        """Publish a candidate; see `check_acceptance`.

        Raises:
            NotFound: There is no such candidate.
            PublishError: It is decided already, or may not be accepted.
            AccessRefused: Whoever asks may not.
        """
        ...

    def reject(
        self, name: ModuleName, number: int, *, reason: str, status: CandidateStatus = "rejected"
    ) -> CandidateLine:
        """Decide that a candidate becomes no release, or withdraw one's own.

        Raises:
            NotFound: There is no such candidate.
            PublishError: It is decided already.
            AccessRefused: Whoever asks may not.
        """
        ...


class PlaceDesk:
    """The candidates of a registry whose files whoever uses it may write, in the user's name."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._writer = CandidateWriter(place)

    def say(
        self,
        name: ModuleName,
        number: int,
        kind: EntryKind,
        text: str,
        report: CandidateReport | None = None,
    ) -> ThreadEntry:
        at = moment_text()
        entry = ThreadEntry(kind=kind, by=user_name(), at=at, text=text, report=report)
        return self._writer.say(name, number, entry)

    def accept(self, name: ModuleName, number: int, *, reason: str, anyway: bool) -> CandidateLine:
        registry = registry_at(self.place)
        thread = read_thread(registry, name, number)
        one = read_candidate(registry, name, number)
        if any(line.published >= one.at for line in registry.index(name)):
            from modpkg.community.semver.version_check import check_version  # imports numpy

            check_open(one)  # its version was checked against the releases before
            check_version(self.place, registry, one.line)
        return self._writer.accept(
            name,
            number,
            by=user_name(),
            reason=reason,
            check=lambda one: check_acceptance(one, thread, anyway=anyway, reason=reason),
        )

    def reject(
        self, name: ModuleName, number: int, *, reason: str, status: CandidateStatus = "rejected"
    ) -> CandidateLine:
        return self._writer.reject(name, number, by=user_name(), reason=reason, status=status)


class ServerDesk:
    """The candidates of a registry that is served, which asks who somebody is."""

    def __init__(self, api: ServerApi) -> None:
        self._api = api

    def say(
        self,
        name: ModuleName,
        number: int,
        kind: EntryKind,
        text: str,
        report: CandidateReport | None = None,
    ) -> ThreadEntry:
        self._api.check_login(f"say something about {name}#{number}")
        path = api_path("modules", name, "candidates", number, f"{kind}s")
        said = CommentRequest(text) if report is None else ReportRequest(report, text)
        return self._api.request("POST", path, ThreadEntry, said)

    def accept(self, name: ModuleName, number: int, *, reason: str, anyway: bool) -> CandidateLine:
        return self._decide(name, number, "accept", DecisionRequest(reason, anyway))

    def reject(
        self, name: ModuleName, number: int, *, reason: str, status: CandidateStatus = "rejected"
    ) -> CandidateLine:
        action = "reject" if status == "rejected" else "withdraw"
        return self._decide(name, number, action, DecisionRequest(reason))

    def _decide(
        self, name: ModuleName, number: int, action: str, request: DecisionRequest
    ) -> CandidateLine:
        self._api.check_login(f"{action} {name}#{number}")
        path = api_path("modules", name, "candidates", number, action)
        # To accept one, the server reads its weights and those of the release before.
        silence = float(bounds.UPLOAD_PART_SECONDS)
        return self._api.request("POST", path, CandidateLine, request, silence=silence)


def desk_at(place: Place) -> ReviewDesk:
    """Return where candidates of the registry at a place are discussed and decided."""
    return ServerDesk(place.api) if isinstance(place, ServerPlace) else PlaceDesk(place)
