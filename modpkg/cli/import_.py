"""``import``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from modpkg.cli.options import json_option
from modpkg.cli.output import TerminalProgress, good, note, print_json, say
from modpkg.core.files import shown
from modpkg.core.names import module_name, parse_requirement, parse_version

_SOURCE = click.argument("source", type=click.Path(exists=True, path_type=Path))


_OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the new module. [default: its name]"
)


_NAME = click.option("--name", help="The module's name. [default: the source's]")


_VERSION = click.option(
    "--version", "version", default="1.0.0", show_default=True, help="The module's version."
)


_LICENSE = click.option("--license", "license_", help="SPDX expression, when the source has none.")


@click.group("import")
def import_command() -> None:
    """Make a module project from what you have; then 'modpkg build' and 'modpkg publish'."""


@import_command.command("hf")
@_SOURCE
@_OUT
@_NAME
@_VERSION
@_LICENSE
@json_option
def import_hf_command(
    source: Path,
    out: Path | None,
    name: str | None,
    version: str,
    license_: str | None,
    as_json: bool,
) -> None:
    """From a transformers or sentence-transformers directory."""
    from modpkg.interop.hf import import_hf

    chosen, folder = _target(source, out, name)
    with TerminalProgress() as progress:
        progress.stage("Importing")
        warnings = import_hf(source, folder, chosen, _version(version), license=license_)
    _report(chosen, version, folder, warnings, as_json)


@import_command.command("gguf")
@_SOURCE
@_OUT
@_NAME
@_VERSION
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="dtype that the weights are dequantised to.",
)
@_LICENSE
@json_option
def import_gguf_command(
    source: Path,
    out: Path | None,
    name: str | None,
    version: str,
    dtype: str,
    license_: str | None,
    as_json: bool,
) -> None:
    """From a GGUF file. Its weights are dequantised, its tokenizer converted."""
    from modpkg.interop.gguf import import_gguf

    chosen, folder = _target(source, out, name)
    with TerminalProgress() as progress:
        progress.stage("Importing")
        warnings = import_gguf(
            source, folder, chosen, _version(version), dtype=dtype, license=license_
        )
    _report(chosen, version, folder, warnings, as_json)


@import_command.command("peft")
@_SOURCE
@_OUT
@_NAME
@_VERSION
@click.option("--base", required=True, help='The base it was made for, like "smollm2-135m>=1,<2".')
@_LICENSE
@json_option
def import_peft_command(
    source: Path,
    out: Path | None,
    name: str | None,
    version: str,
    base: str,
    license_: str | None,
    as_json: bool,
) -> None:
    """From a directory with adapter_config.json, as PEFT saves it."""
    from modpkg.interop.peft import import_peft

    parse_requirement(base)
    chosen, folder = _target(source, out, name)
    with TerminalProgress() as progress:
        progress.stage("Importing")
        warnings = import_peft(
            source, folder, chosen, _version(version), base=base, license=license_
        )
    _report(chosen, version, folder, warnings, as_json)


@import_command.command("mergekit")
@_SOURCE
@_OUT
@_NAME
@_VERSION
@_LICENSE
@json_option
def import_mergekit_command(
    source: Path,
    out: Path | None,
    name: str | None,
    version: str,
    license_: str | None,
    as_json: bool,
) -> None:
    """From a recipe of mergekit (YAML). It becomes a model, by the same method."""
    from modpkg.interop.mergekit import import_mergekit

    chosen, folder = _target(source, out, name or source.stem)
    warnings = import_mergekit(source, folder, chosen, _version(version), license=license_)
    _report(chosen, version, folder, warnings, as_json)


@import_command.command("safetensors")
@_SOURCE
@_OUT
@_NAME
@_VERSION
@_LICENSE
@json_option
def import_safetensors_command(
    source: Path,
    out: Path | None,
    name: str | None,
    version: str,
    license_: str | None,
    as_json: bool,
) -> None:
    """From one safetensors file. It becomes a base without a config, to compare against."""
    from modpkg.interop.plain import import_plain

    chosen, folder = _target(source, out, name)
    with TerminalProgress() as progress:
        progress.stage("Importing")
        warnings = import_plain(source, folder, chosen, _version(version), license=license_)
    _report(chosen, version, folder, warnings, as_json)


def _target(source: Path, out: Path | None, name: str | None) -> tuple[str, Path]:
    chosen = module_name(
        name or source.resolve().name.removesuffix(".gguf").removesuffix(".safetensors")
    )
    return chosen, out if out is not None else Path(chosen)


def _version(text: str) -> str:
    return str(parse_version(text))


def _report(
    name: str, version: str, folder: Path, warnings: Sequence[str], json_wanted: bool
) -> None:
    for warning in warnings:
        note(f"warning: {warning}")
    if json_wanted:
        print_json({"name": name, "version": version, "folder": str(folder)})
        return
    say(f"{good('Wrote')} the module project {name} {version} to {shown(folder)}/.")
    say(f"Look at {shown(folder)}/modpkg.toml, then: modpkg build {folder}")
