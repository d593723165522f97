"""The shapes of what commands print with ``--json``.

Each is an object with the field ``schema``, the version of all shapes, beside those of the record.
``python -m registry_spec`` writes ``docs/json.md`` from them.
"""

from __future__ import annotations

import importlib
from typing import Any

from msgspec import Struct

from modpkg.cli.output import JSON_SCHEMA
from modpkg.core.record_schema import DIALECT, record_schema


class ModuleDocument(Struct, frozen=True, omit_defaults=True):
    """A module project that was written."""

    name: str
    version: str
    folder: str
    against: str | None = None
    """Of an adapter: the release of its base that it was trained on, where it is known."""
    models: tuple[str, ...] = ()
    """Of a recipe with its models: the releases that they are, as ``NAME==VERSION``."""
    then: str | None = None
    """Of a recipe with its models: the command that installs it."""


_INSTALL = ("modpkg.cli.install_document:InstallDocument",)
_MODULE = ("modpkg.cli.documents:ModuleDocument",)
_SEARCH = ("modpkg.environment.search:SearchResult",)
_ACCOUNT = ("modpkg.cli.account:ChangedAccount",)
_ORGANISATION = ("modpkg.registry.api_records:OrganisationInfo",)
_OWNERS = ("modpkg.registry.api_records:ModuleOwners",)
_LINE = ("modpkg.core.records:IndexLine",)
_CANDIDATE = ("modpkg.core.candidates:CandidateLine",)
_ENTRY = ("modpkg.core.candidates:ThreadEntry",)

SHAPES: dict[str, tuple[str, ...]] = {
    "install": _INSTALL,
    "add": _INSTALL,
    "remove": _INSTALL,
    "update": _INSTALL,
    "lock": ("modpkg.cli.lock:LockDocument",),
    "audit": ("modpkg.environment.audit:Audit",),
    "verify": ("modpkg.environment.proof:Proof",),
    "outdated": ("modpkg.cli.outdated:OutdatedDocument",),
    "compose": ("modpkg.cli.compose:ComposeDocument",),
    "rollback": ("modpkg.cli.rollback:RollbackDocument", "modpkg.cli.rollback:GenerationsDocument"),
    "run": ("modpkg.runtime.task_result:TaskResult",),
    "list": ("modpkg.environment.generations:Generation",),
    "show": ("modpkg.cli.show:ShowDocument",),
    "info": ("modpkg.environment.module_info:ModuleInfo",),
    "search": _SEARCH,
    "tree": ("modpkg.cli.tree:TreeDocument",),
    "why": ("modpkg.cli.why:WhyDocument",),
    "why-not": ("modpkg.environment.why_not:WhyNot",),
    "test": ("modpkg.cli.test:TestsDocument", "modpkg.cli.test:SuiteDocument"),
    "licenses": ("modpkg.cli.licenses:LicencesDocument",),
    "vet": ("modpkg.community.vet.verdict:VetReport",),
    "bisect": ("modpkg.community.bisect.bisect:Bisection",),
    "diff": ("modpkg.cli.diff:DiffDocument",),
    "patch create": ("modpkg.cli.patch:PatchDocument",),
    "patch apply": _MODULE,
    "merge": ("modpkg.cli.merge:MergeDocument",),
    "init": ("modpkg.cli.init:InitDocument",),
    "check": ("modpkg.community.semver.check:Check",),
    "changelog": (
        "modpkg.community.semver.changelog:ReleaseChanges",
        "modpkg.community.semver.changelog:LockChanges",
    ),
    "version": ("modpkg.cli.version:VersionDocument",),
    "build": ("modpkg.cli.build:BuildDocument",),
    "publish": ("modpkg.cli.publish:PublishDocument",),
    "submit": ("modpkg.cli.submit:SubmitDocument",),
    "candidates": (
        "modpkg.cli.candidates:CandidatesDocument",
        "modpkg.cli.candidates:CandidateDocument",
    ),
    "comment": _ENTRY,
    "approve": _ENTRY,
    "accept": _CANDIDATE,
    "reject": _CANDIDATE,
    "withdraw": _CANDIDATE,
    "fork": ("modpkg.community.lineage.fork:Forked",),
    "log": ("modpkg.community.lineage.lineage:Lineage",),
    "yank": _LINE,
    "archive": ("modpkg.cli.archive:ArchivedModule",),
    "deprecate": ("modpkg.cli.deprecate:DeprecatedReleases",),
    "key new": ("modpkg.cli.key:KeyDocument",),
    "key list": ("modpkg.cli.key:KeysDocument",),
    "key succeed": ("modpkg.cli.key:Succession",),
    "trust list": ("modpkg.cli.trust:TrustDocument",),
    "trust add": ("modpkg.cli.trust:NewRule",),
    "registry trust init": (
        "modpkg.cli.registry_trust:SignedAgain",
        "modpkg.cli.registry_root:RootToSign",
    ),
    "registry trust sign": ("modpkg.cli.registry_trust:SignedAgain",),
    "registry trust rotate": (
        "modpkg.cli.registry_trust:SignedRegistryDocument",
        "modpkg.cli.registry_root:RootToSign",
    ),
    "registry trust sign-root": ("modpkg.cli.registry_root:RootToSign",),
    "registry trust show": ("modpkg.cli.registry_trust:SignedRegistryDocument",),
    "registry trust forget": ("modpkg.cli.registry_trust:Forgotten",),
    "trust accept": ("modpkg.resolve.lock:Lock",),
    "login": ("modpkg.registry.account_client:LoggedIn",),
    "logout": ("modpkg.cli.logout:LoggedOut",),
    "whoami": ("modpkg.registry.api_records:Me",),
    "account create": ("modpkg.registry.api_records:Me",),
    "account password": _ACCOUNT,
    "account invite": ("modpkg.registry.api_records:NewInvitation",),
    "account close": _ACCOUNT,
    "account open": _ACCOUNT,
    "token list": ("modpkg.registry.api_records:TokenList",),
    "token create": ("modpkg.registry.api_records:NewToken",),
    "token revoke": ("modpkg.cli.token:RevokedToken",),
    "owner list": _OWNERS,
    "owner add": _OWNERS,
    "owner remove": _OWNERS,
    "owner transfer": _OWNERS,
    "owner accept": _OWNERS,
    "owner decline": _OWNERS,
    "owner offers": ("modpkg.registry.api_records:OfferList",),
    "organisation create": _ORGANISATION,
    "organisation show": _ORGANISATION,
    "organisation add": _ORGANISATION,
    "organisation remove": _ORGANISATION,
    "organisation leave": _ORGANISATION,
    "organisation accept": _ORGANISATION,
    "organisation decline": _ORGANISATION,
    "organisation invitations": ("modpkg.registry.api_records:OrganisationInvitations",),
    "publisher list": ("modpkg.registry.api_records:PublisherList",),
    "publisher add": ("modpkg.registry.api_records:PublisherInfo",),
    "publisher remove": ("modpkg.cli.publisher:RemovedPublisher",),
    "registry list": ("modpkg.cli.registry:RegistriesDocument",),
    "registry init": ("modpkg.cli.registry:MadeRegistry",),
    "registry info": ("modpkg.cli.registry:RegistryContents",),
    "registry search": _SEARCH,
    "registry verify": ("modpkg.cli.registry_verify:RegistryVerified",),
    "registry copy": ("modpkg.cli.registry:RegistryCopied",),
    "registry remove": ("modpkg.cli.registry_remove:RemovedDocument",),
    "registry advisory": ("modpkg.cli.registry_advisory:AdvisoriesDocument",),
    "registry admin": ("modpkg.cli.serve:AdministratorDocument",),
    "registry rebuild": ("modpkg.cli.serve:RebuiltDocument",),
    "registry audit": ("modpkg.trust.log.audit:LogAudit",),
    "registry witness": ("modpkg.cli.registry_log:WitnessedLog",),
    "registry gc": ("modpkg.cli.registry:RegistryFreed",),
    "store info": ("modpkg.cli.store:StoreDocument",),
    "store gc": ("modpkg.cli.store:GarbageDocument",),
    "store clear": ("modpkg.cli.store:ClearDocument",),
    "store verify": ("modpkg.cli.store:VerifyDocument",),
    "vendor": ("modpkg.environment.vendor:Vendored",),
    "import hf": _MODULE,
    "import oci": _MODULE,
    "import gguf": _MODULE,
    "import peft": _MODULE,
    "import mergekit": _MODULE,
    "import safetensors": _MODULE,
    "export": ("modpkg.cli.export:ExportDocument",),
}
"""By command, the records that it prints; imported when they are needed, since some need torch."""
FAILURE = "modpkg.cli.output:Failure"
"""What every command prints if it fails."""


def find_shape(place: str) -> type[Struct]:
    """Return the record of an entry of `SHAPES`."""
    module, _, name = place.partition(":")
    shape: type[Struct] = getattr(importlib.import_module(module), name)
    return shape


def shape_schema(place: str, title: str) -> dict[str, Any]:
    """Return the JSON Schema of a document; readers have to ignore fields that it does not name."""
    schema = record_schema(find_shape(place), title)
    properties = {"schema": {"const": JSON_SCHEMA}} | schema["properties"]
    return schema | {"properties": properties, "required": ["schema", *schema.get("required", ())]}


def command_schema(command: str) -> dict[str, Any]:
    """Return the JSON Schema of what a command prints with ``--json``, if it succeeds."""
    title = f"modpkg {command} --json"
    shapes = [shape_schema(place, title) for place in SHAPES[command]]
    if len(shapes) == 1:
        return shapes[0]
    definitions = {name: each for shape in shapes for name, each in shape.pop("$defs", {}).items()}
    for shape in shapes:
        del shape["$schema"]
    return {"$schema": DIALECT, "title": title, "anyOf": shapes, "$defs": definitions}
