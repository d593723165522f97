"""A base whose tied tensors have values of their own, for recipes that say so.

Which tensors those are is in the release of an adapter that needs it; see `MemoryRecord`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from msgspec import Struct, structs

from modpkg.adapters.memory import read_memory
from modpkg.compose.operators.dense import DENSE
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.compose.output_layer import untied_by
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import ADAPTER_CONFIG, CONFIG
from modpkg.core.installed import InstalledModule
from modpkg.core.records import UntiedRecord
from modpkg.core.tensors import identity_of
from modpkg.core.untied import TIES, groups_of, untied_config
from modpkg.manifest.schema import Compose

Value = TypeVar("Value")


class UntiedBase(Struct, frozen=True):
    """A base before and after it is untied."""

    tied: InstalledModule
    tied_config: Mapping[str, Any]
    base: InstalledModule
    config: dict[str, Any]
    record: UntiedRecord

    @property
    def groups(self) -> list[frozenset[str]]:
        """The tensors that are one in the tied base."""
        return groups_of(self.record)


def untied_record(module: InstalledModule) -> UntiedRecord | None:
    """Return how a module needs its base to be untied; None if it does not.

    Raises:
        RecordError: Its file about it is damaged.
    """
    memory = read_memory(module.files, module.name)
    return None if memory is None else memory.untied


def untied_base(
    name: str,
    recipe: Compose,
    base: InstalledModule,
    config: Mapping[str, Any],
    modules: Mapping[str, InstalledModule],
) -> UntiedBase:
    """Return the base of a recipe with ``tie_word_embeddings = false``.

    Raises:
        ComposeError: No step says which tensors are tied, two of them disagree, or the base does
            not have those tensors.
    """

    def refuse(reason: str) -> ComposeError:
        return ComposeError("M601", model=name, reason=reason)

    records: dict[str, UntiedRecord] = {}
    for step in recipe.steps:
        if (record := untied_record(modules[step.module])) is not None:
            records[step.module] = record
    if not records:  # those of adapters say more: they name all tensors that are tied
        for step in recipe.steps:
            if step.op == DENSE.name:
                record = untied_by(modules[step.module], base, config)
                records |= {} if record is None else {step.module: record}
    if not records:
        raise refuse(
            f"it has {TIES} = false, but no adapter in its steps changes only one of several tied "
            "tensors, and no fine-tune has an output layer of its own; remove that line"
        )
    owner, record = next(iter(records.items()))
    if other := next((each for each in records if records[each] != record), None):
        raise refuse(f"{owner} and {other} do not agree on what their base ties")
    tensors = dict(base.tensors)
    for tensor, source in record.tensors.items():
        own = base.tensors.get(source)
        if own is None:
            raise refuse(f"{owner} unties {source!r}, which {base.name} does not have")
        if identity_of(tensors.setdefault(tensor, own)) != identity_of(own):
            raise refuse(f"{tensor!r} and {source!r} of {base.name} differ, so nothing ties them")
    try:
        edited = untied_config(config, record.config)
    except KeyError as error:
        raise refuse(f"the {CONFIG} of {base.name} has no {error.args[0]!r} to untie") from None
    return UntiedBase(base, config, structs.replace(base, tensors=tensors), edited, record)


def bind_untied(untied: UntiedBase, operator: Operator, context: StepContext) -> Effects:
    """Return what a step does to an untied base; the context's base and config are that one's.

    What an adapter or a fine-tune does to the tied tensors that are one, it does to each of them,
    unless it was made for them one by one.

    Raises:
        ComposeError: The step is of another kind and changes one of them, or changes the
            architecture; or see the operator's own `bind`.
    """
    module = context.module
    if untied_record(module) is not None:
        effects = operator.bind(context)
    elif ADAPTER_CONFIG in module.files or (
        operator.name == DENSE.name and not untied.record.tensors.keys() <= module.tensors.keys()
    ):
        tied = structs.replace(context, base=untied.tied, config=untied.tied_config)
        effects = _for_each(untied, operator.bind(tied))
    else:
        effects = operator.bind(context)
        touched = effects.touched() | effects.added.keys()
        ties = sorted(touched & frozenset[str]().union(*untied.groups))
        if ties and operator.name != DENSE.name:
            raise context.refuse_step(
                f"changes {ties[0]!r}, which is tied in {context.base.name} and untied here: "
                "which of the two is meant is not known"
            )
    if "architectures" in effects.config:
        raise context.refuse_step(f"changes the architecture, which {TIES} = false cannot follow")
    return effects


def _for_each(untied: UntiedBase, effects: Effects) -> Effects:
    """Return the effects of a step on the tied base as effects on each of the tensors."""
    groups = untied.groups
    added = _spread(effects.added, groups)
    ties = frozenset[str]().union(*groups)
    removed = {name for name in effects.removed if name not in ties}
    removed |= added.keys() & ties & untied.base.tensors.keys()
    config = effects.config
    for key, *rest in filter(None, untied.record.config):
        if key in config:
            config = untied_config(config, [[key, *rest]])
    return structs.replace(
        effects,
        terms=_spread(effects.terms, groups),
        rows=_spread(effects.rows, groups),
        added=added,
        removed=tuple(sorted(removed)),
        config=config,
    )


def _spread(values: Mapping[str, Value], groups: Iterable[frozenset[str]]) -> dict[str, Value]:
    """Return values by tensor, where tied tensors have that of the one that has a value."""
    result = dict(values)
    for group in groups:
        if present := sorted(group & values.keys()):
            result |= {name: values.get(name, values[present[0]]) for name in group}
    return result
