"""The dependency graph of what is installed: trees and paths. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packaging.requirements import Requirement

from modpkg.environment.generations import Generation, ModuleState
from modpkg.names import parse_requirement, specifier_text


class Graph:
    """Installed modules by name, and which requirement leads from one to another."""

    def __init__(self, generation: Generation) -> None:
        self.modules: Mapping[str, ModuleState] = {
            module.name: module for module in generation.modules
        }
        self.roots: list[Requirement] = [
            parse_requirement(text.split(" @ ")[0]) for text in generation.requirements
        ]
        self._edges = {
            module.name: [
                requirement
                for requirement in map(
                    parse_requirement, [*module.requires, *module.extra_requires]
                )
                if requirement.name in self.modules and requirement.name != module.name
            ]
            for module in generation.modules
        }

    def requirements(self, name: str) -> list[Requirement]:
        """Return the requirements of an installed module, in the order they are written."""
        return self._edges.get(name, [])

    def paths(self, name: str) -> Iterator[list[Requirement]]:
        """Yield every path of requirements from a root to ``name``, shortest first per root."""
        reaching = self._reaching(name)
        pending = [[root] for root in self.roots if root.name in reaching]
        while pending:
            path = pending.pop(0)
            if path[-1].name == name:
                yield path
                continue
            on_path = {step.name for step in path}
            pending += [
                [*path, requirement]
                for requirement in self.requirements(path[-1].name)
                if requirement.name in reaching and requirement.name not in on_path
            ]

    def _reaching(self, name: str) -> set[str]:
        """Return the names from which ``name`` can be reached, itself among them."""
        found = {name}
        while True:
            more = {
                module
                for module, requirements in self._edges.items()
                if module not in found and any(r.name in found for r in requirements)
            }
            if not more:
                return found
            found |= more


def shown_requirement(requirement: Requirement) -> str:
    """Return a requirement's specifier and extras for people, without the name."""
    extras = f"[{','.join(sorted(requirement.extras))}] " if requirement.extras else ""
    return extras + (specifier_text(requirement.specifier) or "any version")
