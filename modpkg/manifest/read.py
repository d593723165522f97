"""Reading a manifest from a folder, a file, a text, or data."""

from __future__ import annotations

from pathlib import Path

from modpkg.core.errors import ManifestError
from modpkg.core.filenames import PYPROJECT
from modpkg.core.files import shown
from modpkg.core.home import user_project
from modpkg.core.names import ModuleName, module_name
from modpkg.manifest.against import with_against
from modpkg.manifest.card import read_card
from modpkg.manifest.dependencies import (
    read_dependencies,
    read_extras,
    read_registries,
    read_suites,
)
from modpkg.manifest.keys import MANIFEST_TABLES, MODULE_KEYS
from modpkg.manifest.licenses import read_licenses
from modpkg.manifest.merge import read_merge
from modpkg.manifest.origins import read_imported_from, read_origins
from modpkg.manifest.resolution import read_bounds, read_resolution
from modpkg.manifest.schema import Compose, ComposeAt, FilesTable, Manifest, ModuleTable, Task
from modpkg.manifest.sections import (
    check_engine,
    read_app,
    read_compose,
    read_engine,
    read_files,
    read_model,
    read_module,
    read_task,
    read_tests,
)
from modpkg.manifest.trust import read_trust
from modpkg.toml.document import decoded, read_document
from modpkg.toml.node import ManifestSource, Node, Table
from modpkg.toml.text import read_head


def read_manifest(path: Path) -> Manifest:
    """Return the manifest in the file at ``path``.

    Raises:
        ManifestError: The file is missing, or not a valid manifest.
    """
    try:
        content = read_head(path, follow=path.parent == user_project())
    except FileNotFoundError:
        raise ManifestError("M111", folder=path.parent, remedy="'modpkg init' makes one") from None
    except OSError as error:
        message = f"it cannot be read: {error.strerror}."
        raise ManifestError("M110", where=shown(path), message=message) from None
    return parse_manifest(decoded(content, shown(path)), path)


def parse_manifest(text: str, path: Path) -> Manifest:
    """Parse a manifest; ``path`` is its file in error messages.

    Raises:
        ManifestError: `text` is not a valid manifest; the message names the line.
    """
    name = shown(path)
    document = read_document(text, name)
    if path.name != PYPROJECT:
        source = ManifestSource(name, document.places)
        return manifest_of(Node(source, (), document.data), path)
    tool = document.data.get("tool")
    if not isinstance(tool, dict) or "modpkg" not in tool:
        message = "it has no [tool.modpkg]; 'modpkg init' makes one."
        raise ManifestError("M110", where=name, message=message)
    source = ManifestSource(name, document.places, ("tool", "modpkg"))
    return manifest_of(Node(source, (), tool["modpkg"]), path)


def manifest_of(root: Node, path: Path) -> Manifest:
    """Return the manifest with the data in ``root``.

    Raises:
        ManifestError: The data are not a valid manifest.
    """
    check_engine(root)
    table = root.table(MANIFEST_TABLES)
    module, app = _owner(table)
    registries, roots = read_registries(table.get("registries"))
    owner = module.name if module else None
    dependencies = read_dependencies(table.get("dependencies"), registries, owner)
    _check_tables(table, module)
    if module is not None and (own := table.get("module")) is not None:
        module = with_against(module, own.table(MODULE_KEYS).get("against"), dependencies)
    owned = table.get("module") or table.get("app")
    names = {dependency.name for dependency in dependencies}
    models, tasks, composed_at = _models(table.get("models"), names)
    compose, task, files = table.get("compose"), table.get("task"), table.get("files")
    extras = read_extras(table.get("extras"), owner)
    optional = {dependency.name for group in extras.values() for dependency in group}
    return Manifest(
        path=path,
        module=module,
        app=app,
        dependencies=dependencies,
        extras=extras,
        requires_modpkg=read_engine(owned) if owned else "",
        constraints=read_bounds(table.get("constraints")),
        overrides=read_bounds(table.get("overrides")),
        resolution=read_resolution(table.get("resolution")),
        licenses=read_licenses(table.get("licenses")),
        trust=read_trust(table.get("trust")),
        compose=read_compose(compose, names | optional) if compose else None,
        task=read_task(task) if task else None,
        tests=read_tests(table.get("tests"), None if module else {*names, *models}),
        suites=read_suites(table.get("suites"), registries, owner),
        files=read_files(files) if files else FilesTable(),
        origins=read_origins(table.get("provenance"), module),
        imported_from=read_imported_from(table.get("provenance")),
        merge=read_merge(table.get("provenance")),
        card=read_card(table.get("card")),
        registries=registries,
        roots=roots,
        models=models,
        tasks=tasks,
        composed_at=composed_at,
    )


def _owner(table: Table) -> tuple[ModuleTable | None, ModuleName | None]:
    module, app = table.get("module"), table.get("app")
    if module and app:
        raise app.fail("and [module] are in one manifest, which has to be one of the two; split it")
    if module:
        return read_module(module), None
    if app:
        return None, read_app(app)
    missing = "has neither [module] (to publish) nor [app] (to use models); add one of them"
    raise table.node.fail(missing)


def _check_tables(table: Table, module: ModuleTable | None) -> None:
    """Refuse the tables that this kind of manifest cannot have."""
    compose, task, files = table.get("compose"), table.get("task"), table.get("files")
    models, suites = table.get("models"), table.get("suites")
    if module is None:
        if suites:
            raise suites.fail("belongs to a module; an app has its own [[tests]] instead")
        if compose:
            raise compose.fail("belongs to a module; an app has [models.NAME] instead")
        if task:
            raise task.fail("belongs to a module; an app has [models.NAME.task] instead")
        for owned in (files, table.get("provenance"), table.get("card")):
            if owned:
                raise owned.fail("belongs to a module, and an app is never published; remove it")
        return
    if models:
        raise models.fail("belongs to an app; a module has [compose] instead")
    if suites and module.kind in ("suite", "collection"):
        raise suites.fail(f"does not go with kind {module.kind!r}, which has no model; remove it")
    if compose and module.kind != "model":
        raise compose.fail(
            f"does not go with kind {module.kind!r}, only with kind 'model'; change one of them"
        )
    if task and module.kind in ("suite", "collection"):
        raise task.fail(f"does not go with kind {module.kind!r}, which has no model; remove it")


def _models(
    node: Node | None, dependencies: set[ModuleName]
) -> tuple[dict[ModuleName, Compose], dict[ModuleName, Task], dict[ModuleName, ComposeAt]]:
    models: dict[ModuleName, Compose] = {}
    tasks: dict[ModuleName, Task] = {}
    composed_at: dict[ModuleName, ComposeAt] = {}
    for entry in node.entries().values() if node else ():
        name = entry.key_parsed(module_name)
        if name in models:
            raise entry.fail(f"is the same name as a model before it ({name}); rename one")
        if name in dependencies:
            raise entry.fail(f"has the name of a dependency ({name}); rename the model")
        models[name], task, moment = read_model(entry, dependencies)
        if task is not None:
            tasks[name] = task
        if moment is not None:
            composed_at[name] = moment
    return models, tasks, composed_at
