"""``publish``."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import field
from msgspec.structs import asdict

from modpkg.cli.key import open_release_signer
from modpkg.cli.options import json_option, registry_option, with_workspace
from modpkg.cli.output import good, print_json, say, strong, tell
from modpkg.community.modules.project import module_project
from modpkg.core.errors import UsageError
from modpkg.core.files import human_bytes
from modpkg.core.names import module_name
from modpkg.core.records import IndexLine
from modpkg.environment.workspace import Workspace
from modpkg.registry.server_writer import NewModule


class PublishDocument(IndexLine, kw_only=True):
    """A published release, as its registry's index has it."""

    dry_run: bool = False
    """Whether it was only checked; its ``published`` is empty then."""
    already: bool = False
    """Whether the registry had it before, so that nothing is written."""
    elsewhere: list[str] = field(default_factory=list)
    """Where the weights are that stay where they are, and are not uploaded."""


@click.command("publish")
@click.argument("folder", type=click.Path(exists=True, path_type=Path), default=".")
@click.option(
    "--allow-breaking",
    metavar="WHY",
    help="Publish even if the changes require a higher version; the reason is recorded.",
)
@click.option("--dry-run", is_flag=True, help="Check everything; publish nothing.")
@click.option(
    "--by-reference/--upload",
    default=None,
    help="Leave weights where they were imported from (hf://…), or upload them. "
    "[default: leave those that a hub still has]",
)
@click.option(
    "--composed",
    is_flag=True,
    help="Publish what the recipe composes, as weights of a module of its own.",
)
@click.option("--name", help="With --composed, that module's name. [default: NAME-composed]")
@click.option(
    "--sign",
    metavar="KEY",
    help="Sign the release with a key: its name ('modpkg key list'), a file, or 'agent'; or as the "
    "CI job that runs, without a key: 'oidc'.",
)
@click.option("--private", is_flag=True, help="Of a new name: let those alone read it who may.")
@click.option("--owner", metavar="ORGANISATION", default="", help="Of a new name: whose it is.")
@click.option(
    "--confirm-name", is_flag=True, help="Of a new name: it is right, though it is near another."
)
@registry_option
@json_option
@with_workspace
def publish_command(
    workspace: Workspace,
    folder: Path,
    allow_breaking: str | None,
    dry_run: bool,
    by_reference: bool | None,
    composed: bool,
    name: str | None,
    sign: str | None,
    private: bool,
    owner: str,
    confirm_name: bool,
    as_json: bool,
) -> None:
    """Publish the release in FOLDER/dist to a registry, which is created if necessary.

    With --sign, a signature of the release lies beside it, also of one that is published already.
    Who installs it has the signer in the lock, and gets no version of another.

    A published version is never replaced; publishing the same release again does nothing. A
    version lower than the changes require ('modpkg check') is refused.

    With --composed, the recipe in FOLDER is composed, and published as a base: its users fetch no
    parents. The release names the parents, and refers to the tensors that the registry has of them.
    """
    from modpkg.community.semver.releases import publish_project

    project = module_project(folder, workspace)
    if name is not None and not composed:
        raise UsageError("M901", message="--name is for --composed; leave it out.")
    if composed and by_reference:
        raise UsageError("M901", message="Composed weights are nowhere else; leave one out.")
    signer = None if sign is None else open_release_signer(sign)
    new = NewModule(private, owner, confirm_name)
    if composed:
        from modpkg.community.modules.composed_project import composed_project

        chosen = None if name is None else module_name(name)
        with composed_project(project, chosen) as made:
            publication = publish_project(
                made,
                allow_breaking,
                dry_run=dry_run,
                by_reference=False,
                signer=signer,
                new=new,
            )
    else:
        publication = publish_project(
            project,
            allow_breaking,
            dry_run=dry_run,
            by_reference=by_reference,
            signer=signer,
            new=new,
        )
    published, target = publication.line, publication.registry
    already, elsewhere = publication.already, publication.elsewhere
    if as_json:
        print_json(
            PublishDocument(
                **asdict(published), dry_run=dry_run, already=already, elsewhere=elsewhere
            )
        )
    elif already and publication.copied:
        tell(
            f"{strong(published.name)} {published.version} is in {target} already; copied "
            f"{human_bytes(publication.copied)}: its weights are there now."
        )
    elif already:
        tell(f"{strong(published.name)} {published.version} is in {target} already (0 B new).")
    elif dry_run:
        say(
            f"Would publish {strong(published.name)} {published.version} to {target} "
            f"({human_bytes(published.size)} new). Dry run: nothing was published."
        )
    else:
        tell(
            f"{good('Published')} {strong(published.name)} {published.version} to {target} "
            f"({human_bytes(published.size)} new)."
        )
    if already and publication.signed and not as_json:
        tell(f"{good('Signed')} {published.version} by {publication.signed}.")
    if elsewhere and not as_json:
        more = f" and {len(elsewhere) - 1} more" if len(elsewhere) > 1 else ""
        tell(f"Its weights stay at {elsewhere[0]}{more}; --upload would copy them.")
