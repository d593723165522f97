"""Composed modules as modules of another recipe: one graph, in which nothing is computed twice.

A tensor that a composed module keeps is where its own modules have it. One that it computes is
named by what it is computed from, and has no bytes until the composition that needs it is computed
(`modpkg.compose.unfolding`), or where the module's own result is in the store. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from msgspec import structs

from modpkg.compose.composition import (
    INNER,
    Composition,
    ComputedTensor,
    ExpectedValues,
    InnerTensor,
    ModuleRow,
    RouterWeight,
    is_inner,
)
from modpkg.compose.merging import regrouped
from modpkg.compose.reducers import REDUCERS, find_reducer
from modpkg.core.digests import digest_bytes
from modpkg.core.dtypes import bits_of
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.records import canonical_json
from modpkg.core.tensors import canonical_identity


class ComposedModule(InstalledModule, frozen=True, kw_only=True):
    """A module whose tensors are those of its composition."""

    composition: Composition
    inner: dict[str, InnerTensor]
    """The tensors that it computes, and those that they are computed from, as in `Composition`."""


def made_fields(computed: ComputedTensor) -> dict[str, Any]:
    """Return the fields of a computed tensor that decide its bytes."""
    return {
        "source": canonical_identity(computed.source),
        "dtype": computed.dtype,
        "reducer": computed.reducer,
        "settings": computed.settings,
        "terms": [term.key_fields() for term in computed.terms],
        **({} if computed.rows is None else {"rows": computed.rows}),
        **({} if computed.moved is None else {"moved": computed.moved.key_fields()}),
    }


def inner_tensors(
    composition: Composition, engine: str
) -> dict[str, tuple[TensorRef, InnerTensor]]:
    """Return references to the tensors that a composition computes, and what they refer to.

    Tensors that are computed from the same in the same way have the same reference, but for methods
    that draw by a tensor's name, or measure the whole module.
    """
    found: dict[str, tuple[TensorRef, InnerTensor]] = {}
    for name, (dtype, shape) in composition.types().items():
        computed = composition.computed.get(name)
        fields: dict[str, Any] = {"engine": engine}
        if computed is None:
            fields |= {"key": composition.key, "name": name}
        else:
            fields["made"] = made_fields(computed)
            if is_measured_across(computed):
                fields["key"] = composition.key
            if _draws(computed):
                fields["name"] = name
        identity = digest_bytes(canonical_json(fields))
        ref = TensorRef(
            file=INNER + identity,
            offset=0,
            length=-(-bits_of(dtype, shape) // 8),
            dtype=dtype,
            shape=list(shape),
            digest=identity,
        )
        model, key = composition.name, composition.key
        found[name] = ref, InnerTensor(model=model, name=name, composition=key, computed=computed)
    return found


def is_measured_across(computed: ComputedTensor) -> bool:
    """Return whether a tensor depends on what its method measures over the whole model."""
    return bool(computed.terms) and find_reducer(computed.reducer, "").across


def _draws(computed: ComputedTensor) -> bool:
    """Return whether a tensor's name may decide values: random methods draw by it, and those that
    trim draw which of equal magnitudes stay. Of a method of a package that is not known."""
    if not computed.terms:
        return False
    known = REDUCERS.get(computed.reducer)
    return known is None or bool({"seed", "density"} & known.parameters.keys())


def unfolded_kept(
    kept: Mapping[str, TensorRef], inner: Mapping[str, InnerTensor]
) -> dict[str, ComputedTensor]:
    """Return how the tensors are computed that a composition keeps of a composed module.

    They are computed as that module computes them, unless that depends on its other tensors or on
    another name: then they are copied.
    """
    computed = {}
    for name, ref in kept.items():
        if not is_inner(ref):
            continue
        own = inner[ref.file]
        made = own.computed
        if (
            made is None
            or ref.length != made.length
            or is_measured_across(made)
            or (own.name != name and _draws(made))
        ):
            made = ComputedTensor(source=ref, dtype=ref.dtype)
        computed[name] = made
    return computed


def copy_of(file: str, item: InnerTensor) -> ComputedTensor:
    """Return a tensor that is a copy of one that has to be computed."""
    if item.computed is None:
        raise AssertionError(f"the router {item.name} of {item.model} has no patch")
    made = item.computed
    source = TensorRef(
        file=file,
        offset=0,
        length=made.length,
        dtype=made.dtype,
        shape=list(made.shape),
        digest=file.removeprefix(INNER),
    )
    return ComputedTensor(source=source, dtype=made.dtype)


def reached(files: Iterable[str], inner: Mapping[str, InnerTensor]) -> dict[str, InnerTensor]:
    """Return the tensors to compute that references to some files lead to, each after its inputs.

    ``files`` of tensors that are stored lead to none.
    """
    found: dict[str, InnerTensor] = {}
    pending = [(file, False) for file in files if file.startswith(INNER)]
    opened: set[str] = set()
    while pending:
        file, is_done = pending.pop()
        if is_done:
            found[file] = inner[file]
        elif file not in opened:
            opened.add(file)
            pending.append((file, True))
            computed = inner[file].computed
            inputs = [] if computed is None else [ref.file for ref in computed.inputs()]
            pending += [(each, False) for each in inputs if each.startswith(INNER)]
    return found


def inputs_of(composition: Composition) -> Iterator[str]:
    """Yield the file of every tensor that a composition is computed from, or checks."""
    for item in composition.computed.values():
        yield from files_of(item)
    yield from (ref.file for ref in read_whole(composition))
    yield from composition.expected


def files_of(computed: ComputedTensor) -> Iterator[str]:
    """Yield the file of every tensor that one is computed from."""
    yield from (ref.file for ref in computed.inputs())


def read_whole(composition: Composition) -> Iterator[TensorRef]:
    """Yield the tensors from which routers are computed."""
    for router in composition.routers.values():
        yield from (row.ref for row in router.rows if isinstance(row, ModuleRow))
    if composition.prompt_reader is not None:
        yield from composition.prompt_reader.tensors.values()


def expected_of(modules: Iterable[InstalledModule]) -> dict[str, tuple[ExpectedValues, ...]]:
    """Return the values that patches within composed modules were made for, by tensors' files."""
    expected: dict[str, tuple[ExpectedValues, ...]] = {}
    for module in modules:
        if isinstance(module, ComposedModule):
            for file, values in module.composition.expected.items():
                known = expected.get(file, ())
                expected[file] = (*known, *(each for each in values if each not in known))
    return expected


def of_modules(
    modules: Iterable[InstalledModule],
) -> tuple[dict[str, InnerTensor], dict[str, Composition]]:
    """Return the tensors to compute of composed modules, and the compositions that they are of."""
    inner: dict[str, InnerTensor] = {}
    parts: dict[str, Composition] = {}
    for module in modules:
        if isinstance(module, ComposedModule):
            inner |= module.inner
            parts |= module.composition.parts
            parts[module.composition.key] = module.composition
    return inner, parts


def substituted(computed: ComputedTensor, made: Mapping[str, TensorRef]) -> ComputedTensor:
    """Return a tensor to compute from tensors that were computed, by their references' ``file``.

    Its terms are in the order that they have if the tensors are stored from the beginning.
    """

    def real(ref: TensorRef) -> TensorRef:
        return stored_place(ref, made)

    terms = [
        structs.replace(
            term,
            inputs={role: real(ref) for role, ref in term.inputs.items()},
            importance=None if term.importance is None else real(term.importance),
        )
        for term in computed.terms
    ]
    settings = computed.settings
    if terms:
        reducer = find_reducer(computed.reducer, "")
        terms = [*regrouped(terms, reducer)]
        if not terms and not (reducer.everywhere and reducer.everywhere(settings)):
            settings = {}  # nothing changes it, so that it is the source's
    moved = computed.moved
    if moved is not None:
        moved = structs.replace(moved, tensors=tuple(real(ref) for ref in moved.tensors))
    source = real(computed.source)
    return structs.replace(
        computed, source=source, terms=tuple(terms), settings=settings, moved=moved
    )


def stored_place(ref: TensorRef, made: Mapping[str, TensorRef]) -> TensorRef:
    """Return where a tensor is, if it was computed; of its first rows only, their part of it."""
    place = made.get(ref.file)
    if place is None or ref.length == place.length:
        return place or ref
    return structs.replace(ref, file=place.file, offset=place.offset)


Results = Callable[[Composition], Mapping[str, TensorRef] | None]
"""Returns the tensors of a composition whose result is stored; None if it is not."""


def with_results(composition: Composition, stored: Results, whole: Results) -> Composition:
    """Return a composition that reads what is stored of its composed modules.

    Args:
        composition: The composition.
        stored: Returns the result of one of its parts, if it is there.
        whole: Computes the whole result of a part: of one with a router, which is small, or of one
            that is run on prompts.

    Raises:
        PatchError: A patch was made for other values of a tensor that is stored.
        What ``whole`` raises.
    """
    inner = composition.inner
    needed = {inner[ref.file].composition for ref in read_whole(composition) if is_inner(ref)}
    needed |= {item.composition for item in inner.values() if item.computed is None}
    made: dict[str, TensorRef] = {}
    for key, part in composition.parts.items():
        own = {file: item.name for file, item in inner.items() if item.composition == key}
        results = stored(part) if own else None
        if results is None and key in needed:
            results = whole(part)
        if results is not None:
            made |= {file: results[name] for file, name in own.items()}
            for file in own:
                for expected in composition.expected.get(file, ()):
                    expected.check(made[file].digest)
    if not made:
        return composition
    reader = composition.prompt_reader
    if reader is not None:
        places = {name: stored_place(ref, made) for name, ref in reader.tensors.items()}
        reader = structs.replace(reader, tensors=places)
    left = {
        file: structs.replace(item, computed=substituted(item.computed, made))
        for file, item in inner.items()
        if file not in made and item.computed is not None
    }
    replaced = structs.replace(
        composition,
        computed={name: substituted(item, made) for name, item in composition.computed.items()},
        routers={name: _with_rows(router, made) for name, router in composition.routers.items()},
        prompt_reader=reader,
    )
    across = {
        item.composition
        for item in left.values()
        if item.computed is not None and is_measured_across(item.computed)
    }
    parts = {key: with_results(composition.parts[key], stored, whole) for key in across}
    others = {file: each for file, each in composition.expected.items() if file in left}
    replaced = structs.replace(replaced, expected=others)
    return structs.replace(
        replaced,
        inner=reached(inputs_of(replaced), left),
        parts={key: parts.get(key, part) for key, part in composition.parts.items()},
    )


def _with_rows(router: RouterWeight, made: Mapping[str, TensorRef]) -> RouterWeight:
    rows = tuple(
        structs.replace(row, ref=stored_place(row.ref, made)) if isinstance(row, ModuleRow) else row
        for row in router.rows
    )
    return structs.replace(router, rows=rows)
