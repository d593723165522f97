"""The licences of a resolution, and which of them a project's ``[licenses]`` refuses."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from modpkg.core.errors import InvalidValue, LicenseError
from modpkg.core.names import parse_requirement
from modpkg.core.records import ReleaseRecord
from modpkg.manifest.schema import LicensePolicy, Manifest
from modpkg.manifest.spdx import is_accepted, licenses_in, parse_expression
from modpkg.resolve.lock import Lock

Verdict = Literal["accepted", "excepted", "refused"]


class ModuleLicense(Struct, frozen=True):
    """One module of a resolution, and whether the policy accepts its licence."""

    name: str
    version: str
    license: str
    verdict: Verdict
    reason: str = ""
    """Why it is refused: a clause."""


def check_licences(
    policy: LicensePolicy, records: Mapping[str, ReleaseRecord]
) -> tuple[ModuleLicense, ...]:
    """Return the policy's verdict on the licence of each release."""
    return tuple(_checked(record, policy) for record in records.values())


def require_accepted(modules: Iterable[ModuleLicense], manifest: Manifest, lock: Lock) -> None:
    """Check that the policy of a manifest refuses no module.

    Raises:
        LicenseError: It refuses one; the message names the dependency that leads to it.
    """
    for module in modules:
        if module.verdict == "refused":
            raise LicenseError(
                "M770",
                where=_required_by(module.name, manifest, lock) or manifest.path.name,
                name=module.name,
                version=module.version,
                license=module.license,
                reason=module.reason,
                policy=manifest.licenses.where,
            )


def _required_by(name: str, manifest: Manifest, lock: Lock) -> str:
    """Return the line of the manifest that leads to a module, and the chain of requirements."""
    known = {module.name: module for module in lock.module}
    pending = deque((dependency, [str(dependency.name)]) for dependency in manifest.dependencies)
    seen: set[str] = set()
    while pending:
        root, path = pending.popleft()
        if path[-1] == name:
            chain = f" ({' -> '.join(path)})" if len(path) > 1 else ""
            return f"{root.where or manifest.path.name}{chain}"
        if path[-1] in seen or path[-1] not in known:
            continue
        seen.add(path[-1])
        for text in known[path[-1]].requires:
            pending.append((root, [*path, parse_requirement(text).name]))
    return ""


def _checked(record: ReleaseRecord, policy: LicensePolicy) -> ModuleLicense:
    """Return whether the policy accepts a module: some choice among its licences suffices."""

    def accepts(license: str) -> bool:
        listed = policy.allow is None or license in policy.allow
        return listed and license not in policy.deny

    exceptions = policy.exceptions.get(record.name, ())  # type: ignore[call-overload]

    def result(verdict: Verdict, reason: str = "") -> ModuleLicense:
        return ModuleLicense(record.name, record.version, record.license, verdict, reason)

    if policy.allow is None and not policy.deny and not exceptions:
        return result("accepted")
    try:
        tree = parse_expression(record.license)
    except InvalidValue:  # releases are not checked for it when they are read
        return result("refused", "it is not an SPDX expression")
    if exceptions and is_accepted(tree, exceptions.__contains__):
        return result("excepted")
    if is_accepted(tree, accepts):
        return result("accepted")
    licenses = sorted(licenses_in(tree))
    if denied := [license for license in licenses if license in policy.deny]:
        return result("refused", f"{', '.join(denied)} is denied")
    missing = [license for license in licenses if not accepts(license)]
    return result("refused", f"{', '.join(missing)} is not among the allowed licences")
