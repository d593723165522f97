"""``verify``: prove what is installed."""

from __future__ import annotations

import click

from modpkg.cli.module_names import installed_names
from modpkg.cli.options import device_option, project_options, with_workspace
from modpkg.cli.output import counted, faint, good, print_json, say, strong, table, tell
from modpkg.core.files import human_bytes
from modpkg.environment.proof import ProvenModel, prove
from modpkg.environment.workspace import Workspace
from modpkg.trust.signatures import is_signer, parse_signer

_PROVEN_BY = {
    "lock": "its weights are the result in modpkg.lock",
    "modules": "its weights are those of its modules",
    "recomposed": "composed again, its weights are the same",
}


@click.command("verify")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=installed_names)
@click.option("--recompose", is_flag=True, help="Compose models again, and compare the results.")
@device_option
@project_options
@with_workspace
def verify_command(
    workspace: Workspace, names: tuple[str, ...], recompose: bool, as_json: bool
) -> int:
    """Prove that what is installed is what modpkg.lock says: of everything, or of each NAME.

    Weights and files that models use are hashed, and compared with what the locked releases make.
    A model whose result the lock does not have is composed again. Signatures and logs are read from
    the registries once more, but not with --offline. Exit status 1: something is not as locked.
    """
    proof = prove(workspace, names, again=recompose)
    if as_json:
        print_json(proof)
        return int(bool(proof.flaws))
    rows = []
    for module in proof.modules:
        whole = f"{module.absent} parts are not in the store" if module.absent else "in the store"
        signer = module.signer or "nobody"
        if module.signer and not any(
            is_signer(module.signer, parse_signer(one)) for one in module.signatures or ()
        ):
            signer += " (by the lock)"
        logged = {None: "-", True: "yes", False: "no"}[module.logged]
        rows.append([module.name, module.version, human_bytes(module.bytes), whole, logged, signer])
    if rows:
        table(rows, ["Module", "Version", "Size", "Weights and files", "In the log", "Signed by"])
    for model in proof.models:
        say(f"{strong(model.name)} {model.version}: {_shown(model)}")
    for flaw in proof.flaws:
        where = f" ({flaw.path})" if flaw.path else ""
        code = f"[{flaw.code}]" if flaw.code else ""
        say(f"{strong(f'flawed{code}')} {flaw.of}: {flaw.reason}{where}")
    what = (
        f"{counted(len(proof.modules), 'module')}, {counted(len(proof.models), 'model')}, "
        f"{human_bytes(proof.bytes)}"
    )
    flaws = len(proof.flaws)
    tell(
        f"{'Verified' if flaws else good('Verified')} {what}: "
        + (f"{counted(flaws, 'flaw')}." if flaws else "as locked.")
    )
    return int(bool(flaws))


def _shown(model: ProvenModel) -> str:
    if model.proven_by is not None:
        return f"{_PROVEN_BY[model.proven_by]} {faint(str(model.result))}"
    if model.result is None:
        return "nothing is composed before it is loaded"
    return "nothing proves its weights"
