"""``submit``."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import Struct

from modpkg.cli.key import open_release_signer
from modpkg.cli.options import json_option, registry_option, with_workspace
from modpkg.cli.output import good, print_json, strong, tell
from modpkg.community.modules.project import module_project
from modpkg.core.errors import UsageError
from modpkg.core.files import human_bytes
from modpkg.environment.workspace import Workspace


class SubmitDocument(Struct, frozen=True, kw_only=True):
    """A release that was submitted as a candidate."""

    name: str
    version: str
    number: int
    """It is ``NAME#number``."""
    release: str
    size: int
    """Bytes that the registry did not have."""
    registry: str
    """Its address."""


@click.command("submit")
@click.argument("folder", type=click.Path(exists=True, path_type=Path), default=".")
@click.option("--message", "-m", required=True, help="What it is for, for those who review it.")
@click.option(
    "--allow-breaking",
    metavar="WHY",
    help="Submit even if the changes require a higher version; the reason is recorded.",
)
@click.option(
    "--sign",
    metavar="KEY",
    help="Sign the release with a key: its name ('modpkg key list'), a file, or 'agent'; or as the "
    "CI job that runs, without a key: 'oidc'.",
)
@registry_option
@json_option
@with_workspace
def submit_command(
    workspace: Workspace,
    folder: Path,
    message: str,
    allow_breaking: str | None,
    sign: str | None,
    as_json: bool,
) -> None:
    """Submit the release in FOLDER/dist as a candidate, for others to review.

    All checks of 'modpkg publish' are done. A candidate can be compared, tested and installed as
    NAME#7, and is never chosen by itself. It becomes a release when it is accepted ('modpkg
    accept'), with the same bytes.
    """
    from modpkg.community.review.submit import submit_project

    if not message.strip():
        raise UsageError("M901", message="--message says what the candidate is for.")
    project = module_project(folder, workspace)
    signer = None if sign is None else open_release_signer(sign)
    submission = submit_project(project, message, allow_breaking, signer)
    line, number, before = submission.line, submission.number, submission.before
    if as_json:
        print_json(
            SubmitDocument(
                name=line.name,
                version=line.version,
                number=number,
                release=line.release,
                size=line.size if before is None else 0,
                registry=submission.registry,
            )
        )
        return
    if before is not None:
        tell(
            f"{line.name} {line.version} is a candidate at {submission.registry} already: "
            f"{strong(before.label)}, which {before.by} submitted. Your message was not added; "
            f"'modpkg comment {before.label} TEXT' adds one."
        )
        return
    tell(
        f"{good('Submitted')} {strong(f'{line.name}#{number}')}: {line.name} {line.version} to "
        f"{submission.registry} ({human_bytes(line.size)} new)."
    )
