"""Readers of ``[module]``, ``[app]``, ``[compose]``, ``[task]``, ``[[tests]]`` and ``[files]``."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast, get_args

from msgspec import structs
from packaging.specifiers import SpecifierSet

from modpkg.core.bounds import (
    DECLARED_TEST_SECONDS,
    STEP_LAYERS,
    STOP_CHARACTERS,
    TASK_NEW_TOKENS,
    TASK_STOPS,
    TASK_TEMPERATURE,
)
from modpkg.core.names import ModuleName, module_name, parse_version
from modpkg.core.records import KINDS, Kind
from modpkg.core.version import __version__
from modpkg.manifest.dependencies import read_compose_at
from modpkg.manifest.keys import (
    APP_KEYS,
    COMPOSITION_KEYS,
    ENGINE,
    FILES_KEYS,
    LAYERS_KEYS,
    LAYERS_STEP_KEYS,
    MODEL_KEYS,
    MODULE_KEYS,
    SAMPLING_KEYS,
    STEP_KEYS,
    TASK_KEYS,
    TEST_KEYS,
)
from modpkg.manifest.resolution import engine_specifier
from modpkg.manifest.schema import (
    IMPORTANCE,
    Compose,
    ComposeAt,
    DTypeName,
    FilesTable,
    Layers,
    ModuleTable,
    Setting,
    Step,
    Task,
    TaskKind,
    Test,
)
from modpkg.manifest.settings import PARAMETER, read_setting, scalar
from modpkg.manifest.values import inner_path, parse_license, prompt, word
from modpkg.manifest.vocabulary import read_vocabulary
from modpkg.toml.node import Node, Table, brief, hint

DTYPES: tuple[str, ...] = get_args(DTypeName)
TASK_KINDS: tuple[str, ...] = get_args(TaskKind)
MOST_SEED = (1 << 31) - 1


def read_module(node: Node) -> ModuleTable:
    """Return ``[module]``."""
    table = node.table(MODULE_KEYS)
    summary = table.get("summary")
    return ModuleTable(
        name=_own_name(table.need("name", 'name = "summarizer"')),
        version=table.need("version", 'version = "1.0.0"').parsed(parse_version),
        kind=cast(Kind, table.need("kind", 'kind = "adapter"').choice(KINDS, "kind of module")),
        license=table.need("license", 'license = "Apache-2.0"').parsed(parse_license),
        summary=summary.text() if summary and summary.value != "" else "",
    )


def _own_name(node: Node) -> ModuleName:
    """Return the module's own name, which has to be written in its normal form.

    Two spellings of one name are one module in every registry; it is better to refuse the second
    one here than when it is published.
    """
    name = node.parsed(module_name)
    if node.text() != name:
        raise node.fail(
            f"is {brief(node.text())}; write it in its normal form, {name!r}: names that differ "
            "only by case or by '-', '_' and '.' are one name"
        )
    return name


def read_app(node: Node) -> ModuleName:
    """Return the name in ``[app]``."""
    table = node.table(APP_KEYS)
    return table.need("name", 'name = "newsroom"').parsed(module_name)


def read_engine(node: Node) -> str:
    """Return ``requires-modpkg`` of ``[module]`` or ``[app]``; "" where it is left out."""
    value = node.entries().get(ENGINE)
    return value.parsed(engine_specifier) if value else ""


def check_engine(root: Node) -> None:
    """Check an app's ``requires-modpkg`` first: other keys may need a newer modpkg too.

    Raises:
        ManifestError: This version of modpkg is not in its range.
    """
    app = root.value.get("app") if isinstance(root.value, dict) else None
    if not isinstance(app, dict) or ENGINE not in app:
        return
    node = root.child("app", app).child(ENGINE, app[ENGINE])
    specifier = node.parsed(engine_specifier)
    if not SpecifierSet(specifier).contains(__version__, prereleases=True):
        raise node.fail(
            f"is {specifier!r}, and this is modpkg {__version__}; "
            "install a version of modpkg in that range"
        )


def read_compose(node: Node, dependencies: Collection[ModuleName]) -> Compose:
    """Return ``[compose]``; every module in it has to be among ``dependencies``."""
    return _composition(node.table(COMPOSITION_KEYS), dependencies)


def read_model(
    node: Node, dependencies: Collection[ModuleName]
) -> tuple[Compose, Task | None, ComposeAt | None]:
    """Return one ``[models.NAME]`` of an app: its composition, its task, when it is composed."""
    table = node.table(MODEL_KEYS)
    task = table.get("task")
    return (
        _composition(table, dependencies),
        read_task(task) if task else None,
        read_compose_at(table.get("compose-at")),
    )


def _composition(table: Table, dependencies: Collection[ModuleName]) -> Compose:
    base = table.need("base", 'base = "smollm2-135m"')
    method, layers = table.get("method"), table.get("layers")
    steps, dtype = table.get("steps"), table.get("dtype")
    tokenizer, tied = table.get("tokenizer"), table.get("tie_word_embeddings")
    template, tokens = table.get("chat_template"), table.get("vocabulary")

    def module(name: Node) -> ModuleName:
        return _dependency(name, dependencies)

    if tied and tied.boolean():
        raise tied.fail("can only be false; leave it out to keep what the base says")
    return Compose(
        base=_dependency(base, dependencies),
        method=word(method, "a method") if method else "sum",
        parameters=_parameters(table.get("parameters"), dependencies),
        layers=tuple(_layers(run, dependencies) for run in layers.items()) if layers else (),
        steps=tuple(_step(step, dependencies) for step in steps.items()) if steps else (),
        dtype=cast(DTypeName, dtype.choice(DTYPES, "dtype")) if dtype else None,
        tokenizer=_dependency(tokenizer, dependencies) if tokenizer else None,
        vocabulary=read_vocabulary(tokens, module) if tokens else None,
        chat_template=template.lines() if template else None,
        tie_word_embeddings=False if tied else None,
    )


def _step(node: Node, dependencies: Collection[ModuleName]) -> Step:
    return _step_of(node.table(STEP_KEYS), dependencies)


def _layers_step(node: Node, dependencies: Collection[ModuleName]) -> Step:
    """Return a step of a run of layers."""
    table = node.table(LAYERS_STEP_KEYS)
    extent = table.get("range")
    return structs.replace(_step_of(table, dependencies), range=_range(extent) if extent else None)


def _step_of(table: Table, dependencies: Collection[ModuleName]) -> Step:
    scale, replace = table.get("scale"), table.get("replace")
    return Step(
        op=word(table.need("op", 'op = "lora"'), "an operator"),
        module=_dependency(table.need("module", 'module = "summarize-lora"'), dependencies),
        scale=read_setting(scale, _number) if scale else 1.0,
        replace=tuple(name.text() for name in replace.items()) if replace else (),
        parameters=_parameters(table.get("parameters"), dependencies),
    )


def _layers(node: Node, dependencies: Collection[ModuleName]) -> Layers:
    table = node.table(LAYERS_KEYS)
    module = table.need("module", 'module = "smollm2-135m"')
    scale, tensors = table.get("scale"), table.get("tensors")
    extent = table.get("range")
    if extent is None and (scale or not tensors):
        extent = table.need("range", "range = [0, 16]")
    steps, method = table.get("steps"), table.get("method")
    return Layers(
        module=_dependency(module, dependencies),
        range=_range(extent) if extent else None,
        scale=read_setting(scale, _number) if scale else None,
        tensors=tuple(name.text() for name in tensors.items()) if tensors else (),
        steps=tuple(_layers_step(each, dependencies) for each in steps.items()) if steps else (),
        method=word(method, "a method") if method else None,
        parameters=_parameters(table.get("parameters"), dependencies),
    )


def _range(extent: Node) -> tuple[int, int]:
    ends = [end.integer(0, STEP_LAYERS) for end in extent.items()]
    if len(ends) != 2 or ends[0] >= ends[1]:
        raise extent.fail("has to be the first layer and the one after the last, like [0, 16]")
    return ends[0], ends[1]


def _number(node: Node) -> float:
    return node.number()


def _parameters(node: Node | None, dependencies: Collection[ModuleName]) -> dict[str, Setting]:
    parameters: dict[str, Setting] = {}
    for key, value in sorted(node.entries().items()) if node else ():
        if not PARAMETER.fullmatch(key):
            raise value.fail("cannot be a parameter's name (lower-case words like 'density')")
        if key == IMPORTANCE and isinstance(value.value, str):
            parameters[key] = _dependency(value, dependencies)
        else:
            parameters[key] = read_setting(value, scalar)
    return parameters


def _dependency(node: Node, dependencies: Collection[ModuleName]) -> ModuleName:
    name = node.parsed(module_name)
    if name not in dependencies:
        near = hint(name, dependencies) or f'; add it there, like: {name} = "*"'
        raise node.fail(f"is {brief(name)}, which is not among [dependencies]{near}")
    return name


def read_task(node: Node) -> Task:
    """Return ``[task]``."""
    table = node.table(TASK_KEYS)
    kind = table.need("kind", 'kind = "text-generation"').choice(TASK_KINDS, "task")
    template, system = table.get("prompt"), table.get("system")
    chat, tokens = table.get("chat"), table.get("max_new_tokens")
    temperature, top_p, stop = (table.get(key) for key in SAMPLING_KEYS)
    if temperature is not None and not 0 <= temperature.number() <= TASK_TEMPERATURE:
        raise temperature.fail(f"has to be from 0 to {TASK_TEMPERATURE}")
    if top_p is not None and not 0 < top_p.number() <= 1:
        raise top_p.fail("has to be greater than 0, and at most 1")
    texts = tuple(_stop(item) for item in stop.items()) if stop else ()
    if stop is not None and len(texts) > TASK_STOPS:
        raise stop.fail(f"has more than {TASK_STOPS} texts")
    return Task(
        kind=cast(TaskKind, kind),
        prompt=prompt(template) if template else None,
        system=system.lines() if system else None,
        chat=chat.boolean() if chat else None,
        max_new_tokens=tokens.integer(1, TASK_NEW_TOKENS) if tokens else None,
        temperature=temperature.number() if temperature else None,
        top_p=top_p.number() if top_p else None,
        stop=texts,
    )


def _stop(node: Node) -> str:
    """Return a text at which generation stops, which may be a line break."""
    if not isinstance(node.value, str):
        raise node.wrong_type("a string")
    if not 0 < len(node.value) <= STOP_CHARACTERS:
        raise node.fail(f"has to have 1 to {STOP_CHARACTERS} characters")
    return node.value


def read_tests(node: Node | None, models: Collection[ModuleName] | None) -> tuple[Test, ...]:
    """Return ``[[tests]]``; ``models`` are those that an app's tests may name, None in modules."""
    tests: dict[str, Test] = {}
    for item in node.items() if node else ():
        test = _test(item, models)
        if test.name in tests:
            name = item.child("name", test.name)
            raise name.fail(f"is {brief(test.name)}, and so is an earlier test's; rename one")
        tests[test.name] = test
    return tuple(tests.values())


def _test(node: Node, models: Collection[ModuleName] | None) -> Test:
    own = () if models is None else ("model",)
    table = node.table((*TEST_KEYS, *own))
    least, most, model = table.get("at_least"), table.get("at_most"), table.get("model")
    tolerance, seed, limit = table.get("tolerance"), table.get("seed"), table.get("time_limit")
    test = Test(
        name=table.need("name", 'name = "keeps names"').text(),
        cases=inner_path(table.need("cases", 'cases = "tests/names.jsonl"')),
        metric=word(table.need("metric", 'metric = "rouge_l"'), "a metric"),
        at_least=least.number() if least else None,
        at_most=most.number() if most else None,
        tolerance=tolerance.number() if tolerance else 0.0,
        seed=seed.integer(0, MOST_SEED) if seed else 0,
        time_limit=limit.number() if limit else None,
        model=model.parsed(module_name) if model else None,
    )
    if least and test.at_least is not None and test.at_most is not None:  # noqa: SIM102
        if test.at_least > test.at_most:
            raise least.fail("is more than at_most, so no value could pass; swap them")
    if tolerance and test.tolerance < 0:
        raise tolerance.fail("is less than 0; write how much worse the value may be")
    if limit and test.time_limit is not None and not 0 < test.time_limit <= DECLARED_TEST_SECONDS:
        raise limit.fail(f"has to be more than 0 and at most {DECLARED_TEST_SECONDS} seconds")
    if model and models is not None and test.model not in models:
        near = hint(str(test.model), models)
        raise model.fail(
            f"is {brief(str(test.model))}, neither among [dependencies] nor in [models]{near}"
        )
    return test


def read_files(node: Node) -> FilesTable:
    """Return ``[files]``."""
    table = node.table(FILES_KEYS)
    include, exclude = table.get("include"), table.get("exclude")
    made_up = table.get("made-up-secrets")
    return FilesTable(
        include=tuple(inner_path(item) for item in include.items()) if include else (),
        exclude=tuple(inner_path(item) for item in exclude.items()) if exclude else (),
        made_up_secrets=tuple(inner_path(item) for item in made_up.items()) if made_up else (),
    )
