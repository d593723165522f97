"""The dependency graph of installed modules: trees and paths."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from modpkg.core.names import Requirement, parse_requirement, specifier_text
from modpkg.environment.generations import Generation, ModuleState


class Graph:
    """Installed modules by name, and the requirements between them."""

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
        """Return the requirements of an installed module, in the order of its manifest."""
        return self._edges.get(name, [])

    def paths(self, name: str) -> Iterator[list[Requirement]]:
        """Yield every path of requirements from a root to ``name``, roughly nearest first.

        There can be exponentially many.
        """
        far = self._distances(name)

        def nearest_last(steps: Iterable[Requirement]) -> list[Requirement]:
            known = [step for step in steps if step.name in far]
            return sorted(known, key=lambda step: far[step.name])[::-1]

        pending = [[root] for root in nearest_last(self.roots)]
        while pending:
            path = pending.pop()
            if path[-1].name == name:
                yield path
                continue
            on_path = {step.name for step in path}
            pending += [
                [*path, requirement]
                for requirement in nearest_last(self.requirements(path[-1].name))
                if requirement.name not in on_path
            ]

    def _distances(self, name: str) -> dict[str, int]:
        """Return the number of steps to ``name`` from each name that leads to it."""
        dependants: dict[str, list[str]] = {}
        for module, requirements in self._edges.items():
            for requirement in requirements:
                dependants.setdefault(requirement.name, []).append(module)
        distances = {name: 0}
        pending = deque([name])
        while pending:
            at = pending.popleft()
            for module in dependants.get(at, []):
                if module not in distances:
                    distances[module] = distances[at] + 1
                    pending.append(module)
        return distances


def shown_requirement(requirement: Requirement) -> str:
    """Return a requirement's specifier and extras for people, without the name."""
    extras = f"[{','.join(sorted(requirement.extras))}] " if requirement.extras else ""
    return extras + (specifier_text(requirement.specifier) or "any version")
