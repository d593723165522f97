"""What `modpkg build` accepts installs: a recipe's faults are reported before it is published."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from struct import pack
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from modpkg.community.modules.project import build_project
from modpkg.community.semver.releases import publish_project
from modpkg.compose.operators import OPERATORS as KNOWN_OPERATORS
from modpkg.compose.reducers import REDUCERS
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import ModpkgError
from modpkg.core.filenames import DIST
from modpkg.core.progress import Progress
from modpkg.environment.install import apply_install
from modpkg.environment.install import install as install_all
from modpkg.environment.plan import InstallRequest, plan_install
from modpkg.environment.project import Project
from modpkg.environment.workspace import RegistryOptions, Workspace
from modpkg.interop.mergekit import import_mergekit
from modpkg.interop.mergekit_methods import METHODS as MERGEKIT
from modpkg.manifest.edit import toml_value
from tests import tiny
from tests.command import modpkg
from tests.conftest import safetensors_bytes
from tests.modules import write_module
from tests.raising import raises

OPERATORS = {
    "tiny": "dense",
    "tuned": "dense",
    "wide": "dense",
    "deep": "dense",
    "tiny-lora": "lora",
    "wide-lora": "lora",
    "other-lora": "lora",
    "fix": "sparse",
    "one": "patch",
    "two": "patch",
    "judge": "head",
}
"""The modules that recipes are made of, and the operator that is right for each."""
ONLY_WHEN_COMPUTED = ("M605",)
"""NaN and infinity show in the values alone."""


def write_world(registry: Path, folder: Path) -> None:
    """Publish bases of three shapes, and adapters for them."""
    tiny.publish(tiny.write_base(folder / "tiny"), registry)
    for name, seed, shape in (
        ("tuned", 5, {}),
        ("wide", 6, {"hidden": 12}),
        ("deep", 7, {"layers": 3}),
    ):
        project = tiny.write_base(folder / name, "1.0", seed, **shape)  # type: ignore[arg-type]
        renamed(project, "tiny", name)
        tiny.publish(project, registry)
    tiny.publish(tiny.write_adapter(folder / "lora"), registry)
    for name, base, shape in (("wide-lora", "wide", {"hidden": 12}), ("other-lora", "tiny", {})):
        project = tiny.write_adapter(folder / name, "1.0", 9, **shape)  # type: ignore[arg-type]
        renamed(project, "tiny-lora", name)
        renamed(project, "tiny =", f"{base} =")
        tiny.publish(project, registry)

    norm = "model.norm.weight"
    values = {f"{norm}.indices": ("I64", [1], pack("<q", 3))}
    weights = safetensors_bytes({**values, f"{norm}.values": ("F32", [1], pack("<f", 2.0))})
    requires, files = {"tiny": ">=1"}, {"w.safetensors": weights}
    tiny.publish(write_module(folder / "fix", "fix", "1.0", "patch", requires, "", files), registry)
    score = {"score.weight": ("F32", [2, 8], pack("<16f", *range(16)))}
    config = {"architectures": ["LlamaForSequenceClassification"], "num_labels": 2}
    files = {"w.safetensors": safetensors_bytes(score), "config.json": json.dumps(config).encode()}
    tiny.publish(write_module(folder / "j", "judge", "1.0", "head", requires, "", files), registry)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registry and the projects of the world, published once."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder / "registry", folder / "world")
    return folder


@pytest.fixture
def world(published: Path, home: Path, tmp_path: Path) -> Path:
    """A folder beside the home, which has a registry of its own with the world's modules."""
    copytree(published / "registry", home / "registry")
    copytree(published / "world", tmp_path / "world")
    return tmp_path


def renamed(project: Path, old: str, new: str) -> None:
    path = project / "modpkg.toml"
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"').replace(old, new))


def write_recipe(folder: Path, name: str, recipe: dict[str, Any], more: str = "") -> Workspace:
    lines = "".join(f"{key} = {toml_value(value)}\n" for key, value in recipe.items())
    requires = {module: "*" for module in OPERATORS if f'"{module}"' in lines}
    write_module(folder, name, "1.0", "model", requires, f"[compose]\n{lines}{more}")
    return Workspace(Project(folder / "modpkg.toml"))


def build(workspace: Workspace) -> tuple[str, ...]:
    return build_project(workspace, workspace.project.folder / DIST).checked_with


def install(folder: Path, name: str) -> None:
    folder.mkdir()
    (folder / "modpkg.toml").write_text(f'[app]\nname = "a"\n[dependencies]\n{name} = "*"\n')
    workspace = Workspace(Project(folder / "modpkg.toml"))
    with workspace.environment.exclusive():
        apply_install(plan_install(workspace, InstallRequest()))


# Recipes --------------------------------------------------------------------------------------

PARAMETERS = sorted({key for method in REDUCERS.values() for key in method.parameters})
VALUES = st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 7.0, -1.0, True, False, "total", "tiny"])
SETTINGS = st.one_of(
    VALUES,
    VALUES,
    st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.0]), min_size=1, max_size=3),
    st.sampled_from([[{"filter": "mlp", "value": 0.5}], [{"filter": "x", "value": [0.0, 1.0]}]]),
    st.just([{"filter": "mlp", "value": 0.5}, {"value": 0.2}]),
)
NUMBERS = st.one_of(
    st.sampled_from([1.0, 1.0, 0.5, 0.0, -1.0]),
    st.sampled_from([[0.0, 1.0], [{"filter": "mlp", "value": 2.0}, {"value": 1.0}]]),
)


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    """Recipes of which many are right, and the others have one or several faults."""
    usual = ["tuned", "tiny-lora", "other-lora", "fix", "judge"]
    others = [name for name in OPERATORS if name not in ("one", "two")]
    modules = st.sampled_from([*usual, *usual, *others])
    method = draw(st.sampled_from(["sum", *REDUCERS, "tiez"]))
    known = REDUCERS[method].parameters if method in REDUCERS else {}
    keys = st.sampled_from([*known, *known, "densty", *PARAMETERS])
    parameters = st.dictionaries(keys, SETTINGS, max_size=2)
    steps = []
    for _ in range(draw(st.integers(0, 3))):
        module = draw(modules)
        wrong = st.sampled_from([*KNOWN_OPERATORS, "lroa"])
        right = draw(st.integers(0, 7))
        step: dict[str, Any] = {"op": OPERATORS[module] if right else draw(wrong)}
        step["module"] = module
        if draw(st.booleans()):
            step["scale"] = draw(NUMBERS)
        if draw(st.integers(0, 3)) == 0:
            step["parameters"] = draw(parameters)
        steps.append(step)
    recipe: dict[str, Any] = {"base": draw(st.sampled_from(["tiny"] * 6 + ["tuned", "tiny-lora"]))}
    recipe["method"] = method
    recipe["parameters"] = {"t": 0.5} if method == "slerp" else {}
    if draw(st.integers(0, 2)) == 0:
        recipe["parameters"] |= draw(parameters)
    if draw(st.integers(0, 5)) == 0:
        runs = st.fixed_dictionaries(
            {
                "module": st.sampled_from(["tiny", "tuned", "wide", "deep", "tiny-lora"]),
                "range": st.sampled_from([[0, 1], [0, 2], [1, 3], [2, 9]]),
            },
            optional={"scale": NUMBERS, "tensors": st.sampled_from([["model.norm."], ["nope"]])},
        )
        recipe["layers"] = draw(st.lists(runs, min_size=1, max_size=2))
        for run in recipe["layers"]:
            if draw(st.booleans()):
                run["steps"] = [{"op": "dense", "module": draw(modules)}]
                run["method"] = draw(st.sampled_from(["linear", "ties", "slerp", "mean", "nope"]))
            if draw(st.booleans()):
                run["parameters"] = draw(parameters)
    if draw(st.integers(0, 3)) == 0:
        recipe["dtype"] = draw(st.sampled_from(["float16", "bfloat16", "float32"]))
    if draw(st.integers(0, 5)) == 0:
        recipe["tokenizer"] = draw(modules)
    return {**recipe, "steps": steps}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(recipe=recipes())
def test_what_build_accepts_installs(world: Path, tmp_path: Path, recipe: dict[str, Any]) -> None:
    number = len(list(tmp_path.glob("m-*")))
    name = f"m-{number}"
    workspace = write_recipe(tmp_path / name, name, recipe)
    try:
        workspace.manifest  # noqa: B018
    except ModpkgError:
        assume(False)
    try:
        assert build(workspace)
    except ModpkgError:
        return
    publish_project(Workspace(workspace.project))
    try:
        install(tmp_path / f"app-{number}", name)
    except ModpkgError as error:
        assert error.code in ONLY_WHEN_COMPUTED, error  # noqa: PT017


@st.composite
def mergekit_recipes(draw: st.DrawFn) -> dict[str, Any]:
    """Recipes of mergekit: of several models, in slices, with parameters that may be wrong."""
    method = draw(st.sampled_from([*MERGEKIT, "linear", "ties", "nope"]))
    known = MERGEKIT.get(method)
    names = st.sampled_from(
        [("tiny", "tuned")] * 3 + [("tuned",), ("tuned", "wide"), ("tiny", "tuned", "deep")]
    )
    keys = st.sampled_from(
        [*(known.shared if known else ()), *(known.each if known else ()), "weight", "densty"]
    )
    parameters = st.dictionaries(keys, SETTINGS, max_size=2)

    def model(name: str) -> dict[str, Any]:
        own = {"weight": 0.5} if draw(st.integers(0, 7)) else {}
        return {"model": name, "parameters": own | (draw(parameters) if rarely() else {})}

    def rarely() -> bool:
        return draw(st.integers(0, 3)) == 0

    entries = [model(name) for name in draw(names)]
    recipe: dict[str, Any] = {"merge_method": method}
    if not rarely():
        recipe["base_model"] = draw(st.sampled_from(["tiny", "tiny", "tuned"]))
    if rarely():
        extent = draw(st.sampled_from([[0, 2], [0, 2], [0, 1], [1, 2], [0, 9]]))
        sliced = [{**entry, "layer_range": extent} for entry in entries]
        recipe["slices"] = [{"sources": sliced}] * draw(st.integers(1, 2))
    else:
        recipe["models"] = entries
    recipe["parameters"] = {"t": 0.5} if method in ("slerp", "nearswap") else {}
    recipe["parameters"] |= draw(parameters) if rarely() else {}
    if rarely():
        recipe["dtype"] = draw(st.sampled_from(["bfloat16", "float16", "float32", "int8"]))
    return recipe


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(recipe=mergekit_recipes())
def test_what_import_and_build_accept_installs(
    world: Path, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    number = len(list(tmp_path.glob("k-*.yml")))
    name = f"k-{number}"
    source, folder = tmp_path / f"{name}.yml", tmp_path / name
    source.write_text(json.dumps(recipe))  # JSON is YAML
    try:
        import_mergekit(source, folder, name, "1.0")
        assert build(Workspace(Project(folder / "modpkg.toml")))
    except ModpkgError:
        return
    publish_project(Workspace(Project(folder / "modpkg.toml")))
    try:
        install(tmp_path / f"of-{number}", name)
    except ModpkgError as error:
        assert error.code in ONLY_WHEN_COMPUTED, error  # noqa: PT017


# What is said, and how ------------------------------------------------------------------------


def dense(module: str, **more: Any) -> dict[str, Any]:
    return {"op": "dense", "module": module, **more}


@pytest.mark.parametrize(
    ("recipe", "code", "message"),
    [
        ({"method": "tiez", "steps": [dense("tuned")]}, "M620", "tiez"),
        ({"steps": [{"op": "lroa", "module": "tiny-lora"}]}, "M602", "lroa"),
        ({"method": "slerp", "steps": [dense("tuned")]}, "M601", "needs the parameter 't'"),
        (
            {"method": "slerp", "parameters": {"t": 0.5}, "steps": [dense("tuned"), dense("deep")]},
            "M601",
            "takes 1 step, not 2; its relative 'nuslerp' takes 1 to 2 steps",
        ),
        (
            {"method": "ties", "steps": [dense("tuned", parameters={"density": 1.5})]},
            "M601",
            "'density' is 1.5, but must be 0 to 1",
        ),
        (
            {"method": "ties", "steps": [dense("tuned", parameters={"densty": 0.5})]},
            "M601",
            "step 1 .* has no parameter 'densty'; it has density, on",
        ),
        (
            {"method": "ties", "steps": [dense("tuned", parameters={"lambda": 0.5})]},
            "M601",
            "is the method's",
        ),
        (
            {"method": "ties", "steps": [dense("tuned", scale=0.5)]},
            "M601",
            "takes no weights; its relative 'ties-mergekit' does",
        ),
        ({"method": "linear", "steps": [dense("tuned", scale=-1.0)]}, "M601", "which is 0"),
        (
            {"method": "multislerp", "steps": [dense("tuned"), dense("tuned", scale=-1.0)]},
            "M601",
            "which is 0",
        ),
        (
            {"method": "karcher", "parameters": {"max_iter": [1.0, 2.0]}, "steps": []},
            "M601",
            "no layers are between",
        ),
        ({"steps": [dense("wide")]}, "M235", "tiny 1.0.*wide 1.0.*shape"),
        ({"steps": [dense("deep")]}, "M235", r"deep has 'model\.layers\.2"),
        ({"steps": [{"op": "lora", "module": "wide-lora"}]}, "M235", "wide-lora"),
        (
            {"method": "passthrough", "layers": [{"module": "deep", "range": [0, 9]}]},
            "M235",
            "deep has no layer 3",
        ),
        (
            {"method": "passthrough", "layers": [{"module": "wide", "range": [0, 2]}]},
            "M235",
            "wide.*shape",
        ),
    ],
)
def test_a_fault_of_a_recipe_is_told_by_build(
    world: Path, recipe: dict[str, Any], code: str, message: str
) -> None:
    with raises(code, match=message):
        build(write_recipe(world / "m", "m", {"base": "tiny", **recipe}))
    assert not (world / "m" / "dist").exists()


def test_the_releases_are_named_and_older_ones_are_not_asked(world: Path, home: Path) -> None:
    workspace = write_recipe(world / "m", "m", {"base": "tiny", "steps": [dense("tuned")]})
    assert build(workspace) == ("tiny 1.0", "tuned 1.0")
    later = tiny.write_base(world / "later", "1.1", 8, layers=3)
    tiny.publish(later, home / "registry")
    with raises("M235", match="tiny 1.1, tuned 1.0"):
        build(Workspace(workspace.project))
    with raises("M235", match="tiny 1.1"):  # it was built before, and is not published now
        publish_project(Workspace(workspace.project))


def test_extras_are_checked_too(world: Path) -> None:
    recipe = {"base": "tiny", "steps": [dense("wide")]}
    workspace = write_recipe(world / "m", "m", recipe, '[extras]\nmore = ["wide>=1"]\n')
    path = workspace.project.manifest_path
    path.write_text(path.read_text().replace('wide = "*"\n', ""))
    with raises("M235", match="wide 1.0"):
        build(Workspace(workspace.project))


class Warnings(Progress):
    """Keeps what is warned of."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def test_a_module_that_is_not_published_yet_is_no_error(world: Path) -> None:
    progress = Warnings()
    project = write_recipe(world / "m", "m", {"base": "tiny", "steps": [dense("tuned")]}).project
    options = RegistryOptions(registry=str(world / "empty"))
    assert build(Workspace(project, options=options, progress=progress)) == ()
    assert any("was not checked" in text for text in progress.texts)


def test_patches_that_conflict_are_told_as_merge_tells_them(world: Path, home: Path) -> None:
    base = load_file(world / "world" / "tiny" / "model.safetensors")
    norm = "model.norm.weight"
    for name, places in (("one", {0: 1.0, 1: 1.0, 2: 1.0}), ("two", {0: 1.0, 1: 2.0, 2: -1.0})):
        tensors = {key: tensor.clone() for key, tensor in base.items()}
        for place, change in places.items():
            tensors[norm][place] += change
        save_file(tensors, world / f"{name}.safetensors")
        record = {
            "base": "tiny", "version": "1.0", "removed": {}, "removed_files": [],
            "tensors": {norm: patched(base[norm], tensors[norm])},
        }  # fmt: skip
        weights = safetensors_bytes({norm: ("F32", [8], tensors[norm].numpy().tobytes())})
        files = {"w.safetensors": weights, "patch.json": json.dumps(record).encode()}
        folder = write_module(world / name, name, "1.0", "patch", {"tiny": "==1.0"}, "", files)
        tiny.publish(folder, home / "registry")
    steps = [{"op": "patch", "module": name} for name in ("one", "two")]
    progress = Warnings()
    project = write_recipe(world / "m", "m", {"base": "tiny", "steps": steps}).project
    build(Workspace(project, progress=progress))
    assert "one and two conflict in up to 1 tensors" in progress.texts[0]
    publish_project(Workspace(project))
    app = world / "app"
    app.mkdir()
    (app / "modpkg.toml").write_text('[app]\nname = "a"\n[dependencies]\nm = "*"\n')
    install_all(Workspace(Project(app / "modpkg.toml"), progress=progress), InstallRequest())
    told = [text for text in progress.texts if "values" in text]
    wanted = "m: one and two conflict in 1 tensors ('model.norm.weight' …; 2 values, 1 changed in"
    assert [text[: len(wanted)] for text in told] == [wanted]
    by_mean = {"base": "tiny", "method": "mean", "steps": steps}
    quiet = Warnings()
    build(Workspace(write_recipe(world / "n", "n", by_mean).project, progress=quiet))
    assert quiet.texts == []


def patched(before: torch.Tensor, after: torch.Tensor) -> dict[str, Any]:
    """Return the entry of patch.json for a tensor that is written whole."""
    was, now = (digest_bytes(tensor.numpy().tobytes()) for tensor in (before, after))
    return {"digest": now, "was": was, "inputs": {"whole": "model.norm.weight"}}


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]", "parameter 't'"),
        (
            "merge_method: ties\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"
            "parameters: {weight: 1, density: 1.5}",
            "but must be 0 to 1",
        ),
        (
            "merge_method: della\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"
            "parameters: {weight: 1, density: 0.9}",
            "more than 0 and less than 1",
        ),
        (
            "merge_method: model_stock\nbase_model: a\nmodels: [{model: a}, {model: b}]",
            "takes 2 or more steps, not 1",
        ),
        (
            "base_model: a\ngate_mode: hidden\nexperts_per_token: 3\n"
            "experts: [{source_model: b, positive_prompts: [x]}]",
            "has to be from 1 to 1",
        ),
    ],
)
def test_import_tells_what_build_would(tmp_path: Path, recipe: str, reason: str) -> None:
    (tmp_path / "r.yml").write_text(recipe)
    with raises("M801", match=reason):
        import_mergekit(tmp_path / "r.yml", tmp_path / "out", "m", "1.0")


def test_import_tries_the_modules_that_are_published(world: Path) -> None:
    recipe = "merge_method: slerp\nbase_model: tiny\nmodels: [{model: tiny}, {model: %s}]\n"
    for name in ("wide", "tuned", "unknown"):
        Path(f"{name}.yml").write_text(recipe % name + "parameters: {t: 0.5}\n")
    refusal = modpkg("import", "mergekit", "wide.yml", "--name", "m-wide").stderr
    assert "'modpkg build' would refuse it" in refusal
    assert "(tiny 1.0, wide 1.0)" in refusal
    for name in ("tuned", "unknown"):
        done = modpkg("import", "mergekit", f"{name}.yml", "--name", f"m-{name}")
        assert "would refuse" not in done.stderr
    assert Path("m-wide/modpkg.toml").is_file()


def test_settings_of_every_method_are_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "merging.md").read_text()
    for name, method in REDUCERS.items():
        rows = (line for line in text.splitlines() if line.startswith("| `"))
        row = next(line for line in rows if f"`{name}`" in line)
        missing = [key for key in method.parameters if f"`{key}`" not in row]
        assert missing in ([], [*method.parameters]) or "the same" in row, (name, missing)
