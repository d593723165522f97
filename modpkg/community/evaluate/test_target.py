"""The models that tests run on."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.compose.composition import Composition
from modpkg.core.digests import Digest, digest_bytes, digest_file
from modpkg.core.errors import TestError
from modpkg.core.filenames import REPORT
from modpkg.core.records import canonical_json
from modpkg.core.report import Subject
from modpkg.environment.models import ModelRecipe
from modpkg.environment.plan import InstallPlan
from modpkg.manifest.schema import Task

_NOT_RUN = re.compile(
    r"(?i)(?:^|/)(?:readme|licen[cs]e|copying|notice)[^/]*$|\.(?:md|jsonl|csv|parquet)$"
)
"""Files that no running model reads: changing them does not change the model."""
_BLOB = re.compile("[0-9a-f]{64}")


class TestTarget(Struct, frozen=True, kw_only=True):
    """A model that tests can run on; its weights may not have been fetched."""

    subject: Subject
    digest: Digest
    """See `composition_digest`."""
    plan: InstallPlan
    recipe: ModelRecipe
    composition: Composition


def find_target(plan: InstallPlan, name: str, kind: str) -> TestTarget:
    """Return a model of a plan.

    Raises:
        TestError: The plan has no such model.
    """
    for recipe in plan.recipes:
        if recipe.name == name:
            composition = plan.compositions[name]
            locked = plan.lock.find(name)
            version = recipe.version if locked is None else locked.version
            return TestTarget(
                subject=Subject(name, version, kind),
                digest=composition_digest(composition, recipe.task),
                plan=plan,
                recipe=recipe,
                composition=composition,
            )
    known = ", ".join(recipe.name for recipe in plan.recipes) or "none"
    raise TestError("M719", reason=f"{name} is not a model that can run (there are: {known})")


def composition_digest(composition: Composition, task: Task | None) -> Digest:
    """Return the digest of what runs: tensors, config, files and task.

    Names and versions of modules are not in it: equal models have equal digests.
    """
    runs: dict[str, object] = {
        "weights": composition.key,
        "config": composition.config,
        "files": {
            path: _hex_digest(file)
            for path, file in composition.files.items()
            if path != REPORT and not _NOT_RUN.search(path)
        },
        "task": None if task is None else _task(task),
    }
    if composition.documents:
        runs["documents"] = composition.documents
    return digest_bytes(canonical_json(runs))


def _task(task: Task) -> dict[str, object]:
    """Return what a task says for tests, which do not sample."""
    data: dict[str, object] = msgspec.to_builtins(task)
    left_out = ["temperature", "top_p", *([] if task.stop else ["stop"])]
    if task.max_new_tokens is None:  # the generation config has a say; it is one of the files
        left_out.append("max_new_tokens")
    return {key: value for key, value in data.items() if key not in left_out}


def _hex_digest(file: Path) -> str:
    """Return the digest of a file; a blob of the store is named by it."""
    return file.name if _BLOB.fullmatch(file.name) else digest_file(file)[7:]
