"""Which modules the user has removed, who may then take an older release of one.

A module that is gone since another one's release does not require it any more is not removed so: a
registry could drop it, and bring back an older one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress

from modpkg.core.errors import EnvironmentDamaged, InvalidValue
from modpkg.core.names import read_requirement
from modpkg.environment.generations import Environment, Generation
from modpkg.manifest.schema import Manifest
from modpkg.resolve.lock import Lock


def removed_by_user(
    environment: Environment, manifest: Manifest, previous: Lock | None
) -> Callable[[str], bool]:
    """Return what tells whether the user has removed a module from what the manifest requires.

    So it is if all by which the lock and the last generation that have the module required it is a
    requirement of the manifest that was taken out of it since, and was not put back, but for one of
    the module itself.

    Args:
        environment: The project's, whose generations remember what they required.
        manifest: The manifest as it is now.
        previous: The project's lock so far.
    """
    wanted = {dependency.name for dependency in manifest.dependencies}

    def is_removed(name: str) -> bool:
        answers = []
        if previous is not None and previous.find(name) is not None:
            unknown = {module.name for module in previous.module if module.extras}
            graph = {module.name: _names(module.requires) for module in previous.module}
            roots = _names(previous.requirements)
            answers.append(_is_removed(name, roots, graph, wanted, wanted, unknown))
        if (found := _last_with(name, environment)) is not None:
            generation, after = found
            graph = {
                state.name: _names([*state.requires, *state.extra_requires])
                for state in generation.modules
            }
            then = wanted if after is None else _names(after.requirements)
            answers.append(_is_removed(name, _names(generation.requirements), graph, then, wanted))
        return bool(answers) and all(answers)

    def unless_unreadable(name: str) -> bool:
        try:
            return is_removed(name)
        except InvalidValue:  # of a lock that was edited, or of a record
            return False

    return unless_unreadable


def _last_with(name: str, environment: Environment) -> tuple[Generation, Generation | None] | None:
    """Return the last generation that has a module, and the one after it, unless it is current."""
    after: Generation | None = None
    current = environment.current_number()
    for number in reversed(environment.numbers()):
        with suppress(EnvironmentDamaged):
            generation = environment.generation(number)
            if any(state.name == name for state in generation.modules):
                return generation, None if number == current else after
            after = generation
    return None


def _is_removed(
    name: str,
    roots: Collection[str],
    graph: Mapping[str, Collection[str]],
    then: Collection[str],
    wanted: Collection[str],
    unknown: Collection[str] = (),
) -> bool:
    """Return whether a module was required only by requirements that were taken out.

    Args:
        name: The module.
        roots: What the manifest required when it was there.
        graph: What each module required.
        then: What the manifest required after that.
        wanted: What it requires now.
        unknown: Modules of which `graph` lacks what their extras required.
    """
    stay = {root for root in roots if root in then or (root in wanted and root != name)}
    kept = _reached(stay, graph)
    if name in kept or any(one in kept for one in unknown):
        return False
    return name in _reached(roots, graph)


def _reached(roots: Iterable[str], graph: Mapping[str, Collection[str]]) -> set[str]:
    found: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += graph.get(name, ())
    return found


def _names(requirements: Iterable[str]) -> set[str]:
    """Return the modules that requirements are of, as a lock or a release has them."""
    return {read_requirement(text.partition(" @ ")[0]).name for text in requirements}
