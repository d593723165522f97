"""``against`` of ``[module]``: the release of its base that a module was trained on."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from packaging.version import Version

from modpkg.core.errors import InvalidValue
from modpkg.core.names import ModuleName, parse_requirement, parse_version, specifier_text
from modpkg.core.records import ACTING_KINDS
from modpkg.manifest.schema import Against, Dependency, ModuleTable
from modpkg.toml.node import Node


def parse_release(text: str, name: str = "smollm2-135m") -> tuple[ModuleName, Version]:
    """Return the name and version of a release, as ``NAME==VERSION``.

    Args:
        text: The release.
        name: What is likely meant, for the example in an error.

    Raises:
        InvalidValue: `text` is not of that form.
    """
    try:
        example = f"{name}=={parse_version(text)}"
    except InvalidValue:
        example = f"{name}==1.0.0"
    else:
        raise InvalidValue("M115", text=text, example=example)
    requirement = parse_requirement(text)
    clauses = list(requirement.specifier)
    if requirement.extras or len(clauses) != 1:
        raise InvalidValue("M115", text=text, example=example)
    (clause,) = clauses
    if clause.operator != "==" or clause.version.endswith(".*"):
        raise InvalidValue("M115", text=text, example=example)
    return ModuleName(requirement.name), parse_version(clause.version)


def with_against(
    module: ModuleTable, node: Node | None, dependencies: Iterable[Dependency]
) -> ModuleTable:
    """Return ``[module]`` with its ``against``; the base has to be among its dependencies.

    Raises:
        ManifestError: It is not a release, or one that the dependencies do not allow.
    """
    if node is None:
        return module
    if module.kind not in ACTING_KINDS:
        raise node.fail(f"does not go with kind {module.kind!r}, which acts on no base; remove it")
    name, version = node.parsed(parse_release)
    dependency = next((one for one in dependencies if one.name == name), None)
    if dependency is None:
        raise node.fail(
            f"names {name}, which is not under [dependencies]; add the versions that the module "
            f'works on, like: {name} = ">={version}"'
        )
    specifier = dependency.requirement.specifier
    if not specifier.contains(version, prereleases=True):
        raise node.fail(
            f"is {name} {version}, and {name} under [dependencies] allows only "
            f"{specifier_text(specifier)}; correct one of them"
        )
    return msgspec.structs.replace(module, against=Against(name, version, node.where))
