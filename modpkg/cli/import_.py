"""``import``: one command for each format."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from modpkg.cli.documents import ModuleDocument
from modpkg.cli.options import json_option, name_of, offline_option, registry_option
from modpkg.cli.output import TerminalProgress, good, note, print_json, tell, warn
from modpkg.community.modules.project import build_project, module_project
from modpkg.core.errors import (
    ComposeError,
    ModpkgError,
    RegistryUnreachable,
    ReleaseError,
    UsageError,
)
from modpkg.core.filenames import DIST, MANIFEST
from modpkg.core.files import remove_tree, shown, write_atomically
from modpkg.core.foreign import how_to_import
from modpkg.core.hub_address import HubAddress, hub_endpoint, is_hub_address, parse_hub_address
from modpkg.core.names import listed, parse_version
from modpkg.core.oci_address import OciAddress, is_oci_address, parse_oci_address
from modpkg.core.regular_file import read_text
from modpkg.core.system import shell_word
from modpkg.environment.foreseen import check_recipe
from modpkg.environment.workspace import RegistryOptions, Workspace
from modpkg.interop.gguf import import_gguf
from modpkg.interop.hf import import_hf
from modpkg.interop.hub_download import downloaded, named_by
from modpkg.interop.mergekit import import_mergekit
from modpkg.interop.module_project import check_new_project
from modpkg.interop.oci_pull import import_oci, pulled
from modpkg.interop.peft import against_of, import_peft
from modpkg.interop.plain import import_plain
from modpkg.manifest.edit import set_against
from modpkg.manifest.editor_schema import add_schema
from modpkg.manifest.values import parse_license

_HUB_NAME = re.compile(r"(?:https?://[^/]+/)?([A-Za-z0-9][\w.-]*/([A-Za-z0-9][\w.-]*))/?")
"""A model of the Hugging Face Hub, by name or address."""


class _Source(click.Path):
    """A path that exists; what looks like a model of a hub is distinguished from a misspelt one."""

    def __init__(self, *, hub: bool) -> None:
        super().__init__(exists=True, path_type=Path)
        self._hub = hub

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self._hub and isinstance(value, str) and is_hub_address(value):
            return parse_hub_address(value)
        if isinstance(value, str) and is_oci_address(value):
            hint = f"It is imported so: modpkg import oci {value}"
            raise click.BadParameter(hint, ctx, param)
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            if (found := _HUB_NAME.fullmatch(str(value))) is None:
                raise
            message = (
                f"{error.message} If it is a model of a hub, name it hf://{found[1]}."
                if self._hub
                else f"{error.message} This format is not read from a hub; download it first (hf "
                f"download {found[1]} --local-dir {found[2]}), and name its file."
            )
            raise click.BadParameter(message, ctx, param) from None


class _Formats(click.Group):
    """The formats; where a source stands in the place of one, how it is named is said."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            places = [Path(text) for text in args if not text.startswith("-")]
            artifact = next(filter(is_oci_address, args), None)
            found = f"modpkg import oci {artifact}" if artifact is not None else None
            found = found or next(filter(None, map(how_to_import, places)), None)
            hint = f" Here: {found}" if found is not None else ""
            formats = ", ".join(self.commands)
            ctx.fail(f"Name the format before the source, one of {formats}.{hint}")
        return super().resolve_command(ctx, args)


def _import_options(
    command: Callable[..., None] | None = None,
    *,
    hub: bool = False,
    source: Callable[[str], object] | None = None,
) -> Callable[..., Any]:
    """Add the argument and options of every format.

    With ``hub``, a hub can be its source; ``source`` parses any other that is no path.
    """
    if command is None:
        return partial(_import_options, hub=hub, source=source)
    for option in (
        json_option,
        click.option("--license", "license_", help="SPDX expression, if the source has none."),
        click.option(
            "--version", default="1.0.0", show_default=True, help="Version of the new module."
        ),
        click.option("--name", help="Name of the new module. [default: the source's]"),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            help="Folder of the new module. [default: its name]",
        ),
        click.argument("source", type=source or _Source(hub=hub)),
    ):
        command = option(command)
    return command


@click.group("import", cls=_Formats)
def import_command() -> None:
    """Convert a model into a module project, for 'modpkg build' and 'modpkg publish'."""


@import_command.command("hf")
@_import_options(hub=True)
@click.option(
    "--dequantize",
    is_flag=True,
    help="Write quantised weights in full precision, where their format defines it exactly.",
)
@offline_option
def import_hf_command(**options: Any) -> None:
    """Convert a transformers or sentence-transformers model: a directory, or one of a hub.

    A model of a hub is named hf://ORG/NAME, or hf://ORG/NAME@REVISION with a branch, a tag or a
    commit. The commit that it is taken from is written to the manifest.
    """
    _convert(import_hf, **options)


def _artifact(text: str) -> OciAddress:
    """Return the address of an artifact."""
    if not is_oci_address(text):
        raise click.BadParameter(f"{text!r} is none like oci://HOST/REPOSITORY:TAG.")
    return parse_oci_address(text)


@import_command.command("oci")
@_import_options(source=_artifact)
@offline_option
def import_oci_command(**options: Any) -> None:
    """Convert a model of an OCI registry: an artifact of the CNCF's model-spec (ModelPack).

    SOURCE is oci://HOST/REPOSITORY:TAG, or @sha256:DIGEST in place of the tag. What modpkg pushed
    there is compared with the lock that came with it; the folder "assembly" of the new module has
    this lock, and the manifest to install the same again.
    """
    _convert(import_oci, **options)


@import_command.command("gguf")
@_import_options
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="dtype of the dequantised weights.",
)
def import_gguf_command(**options: Any) -> None:
    """Convert a GGUF file: dequantise its weights, and convert its tokenizer."""
    _convert(import_gguf, **options)


@import_command.command("peft")
@_import_options(hub=True)
@click.option("--base", required=True, help='Requirement of its base, as "smollm2-135m>=1,<2".')
@click.option(
    "--against",
    metavar="NAME==VERSION",
    help="The release of its base that it was trained on. [default: the only one that it fits]",
)
@click.option("--part", help="Part of a file that is for several models: te1, unet, text_encoder …")
@registry_option
@offline_option
def import_peft_command(
    base: str, against: str | None, registry: str | None, offline: bool, **options: Any
) -> None:
    """Convert an adapter: a directory with adapter_config.json, as PEFT saves it.

    One of a hub is named hf://ORG/NAME, or hf://ORG/NAME@REVISION.

    A LoRA of kohya, LyCORIS or diffusers is one file (.safetensors). If the names in it do not
    tell the layers, they are found by the base, which is looked up in the registry.

    Which release of the base it was trained on is written to the manifest ("against"): the one
    that --against or an == in --base names, or the only one in the registry that it fits. If it
    fits several, whose weights differ where it acts, --against has to say which.
    """
    pin = against_of(base, against)
    workspace = Workspace(options=RegistryOptions(registry, offline))

    def bind(folder: Path) -> str | None:
        return _bind(workspace, folder, pin)

    _convert(
        import_peft,
        bind=bind,
        offline=offline,
        base=base,
        against=pin,
        workspace=workspace,
        **options,
    )


def _bind(workspace: Workspace, folder: Path, pin: str | None) -> str | None:
    """Write the release that an imported adapter was trained on to its manifest, and return it.

    None if it is not known: the registry of the base cannot be asked, or nothing in it fits. It is
    looked up even if it is known, so that a release that does not exist is not written.

    Raises:
        ReleaseError: It does not exist, or nobody can tell which of several it is.
        ComposeError: It cannot be composed exactly with its base.
    """
    project = module_project(folder, workspace)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            built = build_project(project, Path(scratch) / DIST, deltas=False, older=True)
    except ModpkgError as error:
        if error.code in ("M420", "M421") or isinstance(error, ComposeError):
            raise
        tell_of = warn if isinstance(error, ReleaseError) else note
        tell_of(f"not checked against its base, which 'modpkg build' will do: {error}")
        return pin
    origin = built.record.provenance.built_from[0]
    release = f"{origin.name}=={origin.version}"
    if pin is None:
        path = folder / MANIFEST
        write_atomically(path, set_against(read_text(path), release).encode())
    return release


@import_command.command("mergekit")
@_import_options
@click.option(
    "--with-models",
    is_flag=True,
    help="Import and build the models that it names, too, and pin their versions.",
)
@click.option(
    "--publish",
    metavar="URL",
    help="With --with-models, publish all of it to this registry: a folder, URL or alias.",
)
@registry_option
@offline_option
def import_mergekit_command(
    source: Path,
    name: str | None,
    with_models: bool,
    publish: str | None,
    registry: str | None,
    offline: bool,
    **options: Any,
) -> None:
    """Convert a mergekit recipe (YAML) into a model with the same merge method.

    Where the registry has modules of the names that its models get, it is tried with them, and
    what 'modpkg build' would refuse is reported.

    With --with-models, the models that it names become modules, too: folders beside it, or ORG/NAME
    of a hub. What the registry has already, by its weights, is used under its name. --license is
    that of the recipe, and of each model whose README names none. Either all of it is written, or
    nothing.
    """
    if not with_models:
        if publish is not None:
            raise UsageError("M901", message="--publish is for --with-models; leave it out.")
        workspace = Workspace(options=RegistryOptions(registry, offline))
        _convert(
            import_mergekit,
            bind=partial(_tried, workspace),
            offline=offline,
            source=source,
            name=name or source.stem,
            **options,
        )
        return
    if publish is not None and registry is not None:
        message = "--publish names the registry already; leave --registry out."
        raise UsageError("M901", message=message)
    with TerminalProgress() as progress:
        place = RegistryOptions(publish or registry, offline)
        workspace = Workspace(options=place, progress=progress)
        _with_models(workspace, source, name or source.stem, publish=publish, **options)


def _tried(workspace: Workspace, folder: Path) -> None:
    """Tell what building a recipe would refuse, with the modules that are published."""
    project = module_project(folder, workspace)
    try:
        check_recipe(project, project.manifest)
    except ModpkgError as error:
        warn(f"'modpkg build' would refuse it: {error}")


def _with_models(
    workspace: Workspace,
    source: Path,
    name: str,
    *,
    out: Path | None,
    version: str,
    license_: str | None,
    publish: str | None,
    as_json: bool,
) -> None:
    from modpkg.community.modules.recipe_models import import_with_models

    chosen, normal = name_of(name, name), str(parse_version(version))
    folder = out if out is not None else Path(chosen)
    done = import_with_models(source, folder, chosen, normal, license_, workspace)
    add_schema(folder)
    projects = [folder / each for each in done.projects]
    if publish is not None:
        from modpkg.community.semver.releases import publish_project

        for project in projects:
            publish_project(module_project(project, workspace))
    for warning in done.warnings:
        warn(warning)
    place = workspace.options.registry
    at = "" if place is None else f" --registry {shell_word(place)}"
    steps = [] if publish else [f"modpkg publish {shell_word(str(p))}{at}" for p in projects]
    then = " && ".join([*steps, f"modpkg add {chosen}=={normal}{at}"])
    if as_json:
        print_json(ModuleDocument(chosen, normal, str(folder), models=done.parts, then=then))
        return
    wrote = "Found" if done.already else "Wrote"
    tell(f"{good(wrote)} {chosen} {normal} in {shown(folder)}/, made of {listed(done.parts)}.")
    tell(f"Then run: {then}")


@import_command.command("safetensors")
@_import_options
def import_safetensors_command(**options: Any) -> None:
    """Convert one safetensors file into a base without a config, for comparisons."""
    _convert(import_plain, **options)


def _convert(
    importer: Callable[..., list[str]],
    *,
    source: Path | HubAddress | OciAddress,
    out: Path | None,
    name: str | None,
    version: str,
    license_: str | None,
    as_json: bool,
    bind: Callable[[Path], str | None] | None = None,
    offline: bool = False,
    **options: Any,
) -> None:
    """Run an importer and print what it wrote; ``options`` are those of the format.

    ``bind`` looks up what an adapter was trained on; if it fails, nothing is left.
    """
    if isinstance(source, HubAddress):
        stem = source.name
        if offline:
            raise RegistryUnreachable("M863", url=hub_endpoint(), reason="--offline forbids it")
    elif isinstance(source, OciAddress):
        stem = source.name
        if offline:
            reason, remedy = "--offline forbids it", "leave it out"
            raise RegistryUnreachable("M892", host=source.host, reason=reason, remedy=remedy)
    else:
        stem = source.resolve().name.removesuffix(".gguf").removesuffix(".safetensors")
    chosen, normal = name_of(name, stem), str(parse_version(version))
    if license_ is not None:
        parse_license(license_)  # before work that takes long
    folder = out if out is not None else Path(chosen)
    with TerminalProgress() as progress:
        progress.stage("Importing")
        options["license"] = license_
        if isinstance(source, HubAddress):
            check_new_project(folder)  # before a download
            adapter = importer is import_peft
            with downloaded(source, adapter=adapter, progress=progress) as got:
                progress.stage("Importing")
                with named_by(got.address, got.folder):
                    pinned = options | {"imported_from": got.address}
                    warnings = importer(got.source, folder, chosen, normal, **pinned)
                warnings += got.left
        elif isinstance(source, OciAddress):
            check_new_project(folder)
            with pulled(source, progress=progress) as artifact:
                progress.stage("Importing")
                with named_by(artifact.address, artifact.folder):
                    warnings = importer(artifact, folder, chosen, normal, **options)
        else:
            warnings = importer(source, folder, chosen, normal, **options)
        try:
            against = bind(folder) if bind is not None else None
        except ModpkgError:
            remove_tree(folder)
            raise
    add_schema(folder)
    for warning in warnings:
        warn(warning)
    if as_json:
        print_json(ModuleDocument(chosen, normal, str(folder), against))
        return
    tell(f"{good('Wrote')} the module project {chosen} {normal} to {shown(folder)}/.")
    if against is not None:
        tell(f"It was made against {against}.")
    tell(f"Review {shown(folder)}/modpkg.toml, then run: modpkg build {folder}")
