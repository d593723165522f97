"""modpkg: a package manager for models.

Load and run the models that ``modpkg install`` composed:

>>> import modpkg
>>> model = modpkg.load("summarizer")  # a torch.nn.Module  # doctest: +SKIP
>>> modpkg.run("summarizer", "A long text …").text  # doctest: +SKIP
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Literal, overload

from modpkg.core.errors import InvalidValue, ModpkgError, RunError
from modpkg.core.extras import require_transformers
from modpkg.core.files import os_errors_told
from modpkg.core.version import __version__

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    import torch
    from transformers import PreTrainedTokenizerBase

    from modpkg.environment.workspace import Workspace
    from modpkg.runtime.live import LiveModel
    from modpkg.runtime.live_parts import LiveParts
    from modpkg.runtime.pipeline import Pipeline
    from modpkg.runtime.task_result import TaskResult

__all__ = ["ModpkgError", "__version__", "load", "path", "pipeline", "run", "tokenizer"]


@overload
def load(
    name: str,
    *,
    live: Literal[False] = ...,
    project: str | PathLike[str] | None = ...,
    user: bool = ...,
    device: torch.device | str | int | None = ...,
    dtype: torch.dtype | str | None = ...,
    attn_implementation: str | None = ...,
    share: bool = ...,
) -> torch.nn.Module: ...


@overload
def load(
    name: str | Sequence[str],
    *,
    live: Literal[True],
    adapters: Sequence[str] | None = ...,
    project: str | PathLike[str] | None = ...,
    user: bool = ...,
    device: torch.device | str | int | None = ...,
    attn_implementation: str | None = ...,
    share: bool = ...,
) -> LiveModel: ...


@overload
def load(
    name: str,
    *,
    adapters: Sequence[str],
    project: str | PathLike[str] | None = ...,
    user: bool = ...,
    device: torch.device | str | int | None = ...,
    attn_implementation: str | None = ...,
    share: bool = ...,
) -> LiveModel: ...


@os_errors_told()
def load(
    name: str | Sequence[str],
    *,
    live: bool = False,
    adapters: Sequence[str] | None = None,
    project: str | PathLike[str] | None = None,
    user: bool = False,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    share: bool = False,
) -> torch.nn.Module | LiveModel:
    """Load an installed model in evaluation mode.

    Parameters are memory-mapped from the environment's packs, in the dtype they have on disk:
    nothing is copied, randomly initialised or downloaded.

    >>> model = modpkg.load("summarizer")  # doctest: +SKIP

    With ``live``, adapters are not fused into the weights: they can be switched, weighted and
    chosen per row of a batch.

    >>> model = modpkg.load(["summarizer", "translator"], live=True)  # doctest: +SKIP
    >>> model.set_adapter("translator")  # doctest: +SKIP
    >>> model.generate(ids, adapter_names=["summarizer", "__base__"])  # doctest: +SKIP

    So they are with ``adapters``, which may name any that are installed; nothing is composed.

    >>> model = modpkg.load("smollm2-135m", adapters=["customer-1", "customer-2"])  # doctest: +SKIP

    Args:
        name: Name of the model; with ``live``, optionally several models of one base.
        live: Keep adapters separate from the base.
        adapters: Names of adapters on the model's base, of which the first is active.
        project: Folder of the project; by default the one around the working folder, else the
            user's environment.
        user: Use the user's environment, even inside of a project.
        device: Where to put the parameters, like ``"cuda"``: they are read straight into its
            memory. On the CPU they stay mapped.
        dtype: Convert floating-point parameters, as ``from_pretrained(dtype=…)`` does; a dtype or
            its name, like ``"bfloat16"``. ``"auto"``, the default, is that of its config.json.
            Not for live models.
        attn_implementation: transformers' name of an attention, like ``"sdpa"`` or ``"eager"``, or
            of one that is registered there; its own choice by default.
        share: Let parameters that another model of this process has too, from the same stored
            tensor, in the same dtype and on the same device, be in the same memory. They are
            frozen: changing one in place would change it in every model. Without it mapped
            parameters share pages all the same, which are copied when they are changed.

    Raises:
        ModpkgError: The model is not installed, cannot be loaded, or cannot be loaded live; or the
            caller's file is in another project than the one around the working folder.
        TypeError: Several names were given without ``live``, or beside ``adapters``.
    """
    workspace = _workspace(project, user)
    require_transformers("modpkg.load")
    how = _how(device, dtype, attn_implementation, share)
    if live or adapters is not None:
        return _live(_live_parts(name, adapters, workspace, how), how)
    from modpkg.runtime.installed import find_model
    from modpkg.runtime.load import load_model

    folder, packs = find_model(_only(name), workspace)
    return load_model(folder, packs, **how)


def _how(device: Any, dtype: Any, attn_implementation: Any, share: Any) -> dict[str, Any]:
    """Return the arguments of `load` that say how, of those that are given.

    Raises:
        RunError: ``share`` is not a truth value.
    """
    if not isinstance(share, bool):
        raise RunError("M709", choice=f"share {share!r}", reason="it is either True or False")
    given = {"device": device, "dtype": dtype, "attn_implementation": attn_implementation}
    how = {key: value for key, value in given.items() if value is not None}
    return {**how, "share": share} if share else how


def _live_parts(
    name: str | Sequence[str],
    adapters: Sequence[str] | None,
    workspace: Workspace,
    how: dict[str, Any],
) -> LiveParts:
    """Return the parts of models of one base, or of adapters on one.

    Raises:
        RunError: Something is said of how it is run that cannot be, or they cannot be live.
        InstallError: One is not installed.
    """
    if "dtype" in how:
        reason = (
            "a live model is loaded in the dtype that it has on disk; its .to(dtype) converts it"
        )
        raise RunError("M709", choice="dtype", reason=reason)
    from modpkg.runtime.live_parts import find_adapters, find_parts

    found: LiveParts
    if adapters is None:
        found = find_parts(_names(name), workspace)
    else:
        from modpkg.runtime.adapter_choice import list_of_names

        named = list_of_names("adapters", adapters)
        found = find_adapters(_only(name), named, workspace)
    return found


def _live(parts: LiveParts, how: dict[str, Any]) -> LiveModel:
    """Return a live model on a device.

    Raises:
        RunError: The parts cannot be loaded, or torch does not have the device.
    """
    from modpkg.runtime.live import LiveModel
    from modpkg.runtime.placement import device_of

    return LiveModel(
        parts.name,
        parts,
        attention=how.get("attn_implementation"),
        device=device_of(how["device"]) if "device" in how else None,
        share=how.get("share", False),
    )


def _names(name: Any) -> list[str]:
    """Return the names that are given, of which one may be given alone.

    Raises:
        InvalidValue: It is neither a name nor a list of names.
        RunError: It is a mapping, whose weights would be ignored, or a set, which has no first.
    """
    if isinstance(name, Mapping | AbstractSet):
        from modpkg.runtime.adapter_choice import list_of_names

        return list_of_names("name", name)
    names = [name] if isinstance(name, str) else list(name) if isinstance(name, Iterable) else []
    if not names:
        raise InvalidValue("M101", name=name)
    return names


def _only(name: str | Sequence[str]) -> str:
    """Return the one name that is given.

    Raises:
        TypeError: There are several.
        InvalidValue: It is neither a name nor a list of names.
    """
    names = _names(name)
    if len(names) != 1:
        raise TypeError("loading several models requires live=True")
    return names[0]


@os_errors_told()
def pipeline(
    name: str | Sequence[str],
    *,
    live: bool = False,
    adapters: Sequence[str] | None = None,
    project: str | PathLike[str] | None = None,
    user: bool = False,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    share: bool = False,
) -> Pipeline:
    """Load an installed model to run its task again and again, on texts or conversations.

    >>> write = modpkg.pipeline("summarizer")  # doctest: +SKIP
    >>> write("A long text …").text  # doctest: +SKIP
    >>> talk = modpkg.pipeline(["cust-00", "cust-01"], live=True)  # doctest: +SKIP
    >>> talk([{"role": "user", "content": "Hello"}], adapter="cust-01").text  # doctest: +SKIP

    Args and errors are those of `load`; what a pipeline does is in
    `modpkg.runtime.pipeline.Pipeline`. Warnings of truncated texts are Python warnings.

    Raises:
        ModpkgError: As `load`; or the model has no task that is supported, or no tokenizer.
    """
    require_transformers("modpkg.pipeline")
    from modpkg.runtime.installed import find_model
    from modpkg.runtime.load import load_model
    from modpkg.runtime.pipeline import Pipeline, check_runs

    workspace = _workspace(project, user)
    how = _how(device, dtype, attn_implementation, share)
    model: torch.nn.Module
    if live or adapters is not None:
        parts = _live_parts(name, adapters, workspace, how)
        folder, packs = parts.folder, workspace.environment.packs
        tokenizer = check_runs(folder)
        model = _live(parts, how)
    else:
        folder, packs = find_model(_only(name), workspace, composed=False)
        tokenizer = check_runs(folder)
        find_model(_only(name), workspace)
        model = load_model(folder, packs, **how)
    return Pipeline(model, folder, packs, tokenizer=tokenizer, warn=warnings.warn)


@os_errors_told()
def tokenizer(
    name: str, *, project: str | PathLike[str] | None = None, user: bool = False
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of an installed model; weights are neither read nor composed.

    >>> ids = modpkg.tokenizer("summarizer")("A text", return_tensors="pt")  # doctest: +SKIP

    Args:
        name: Name of the model.
        project: Folder of the project; see `load`.
        user: Use the user's environment, even inside of a project.

    Raises:
        ModpkgError: The model is not installed, or has no tokenizer.
    """
    from modpkg.runtime.installed import find_model
    from modpkg.runtime.pipeline import load_tokenizer

    folder, _ = find_model(name, _workspace(project, user), composed=False)
    found: PreTrainedTokenizerBase = load_tokenizer(name, folder)
    return found


@os_errors_told()
def path(
    name: str,
    *,
    form: Literal["hf", "peft"] = "hf",
    project: str | PathLike[str] | None = None,
    user: bool = False,
) -> Path:
    """Return a directory with an installed model that ``from_pretrained`` can load.

    The directory is made on the first call and kept as long as the environment has the model. Its
    weights are linked, not copied, where the store has them as files; they are read-only. `load`
    does not need it.

    >>> from transformers import AutoModel  # doctest: +SKIP
    >>> model = AutoModel.from_pretrained(modpkg.path("summarizer"))  # doctest: +SKIP

    Args:
        name: Name of the model.
        form: ``"peft"`` gives the adapter alone, of an adapter or of a model that is a base and one
            adapter: for PEFT, or for the ``--lora-modules`` of vLLM.
        project: Folder of the project; see `load`.
        user: Use the user's environment, even inside of a project.

    Raises:
        ModpkgError: The model is not installed, or the directory cannot be written.
    """
    from modpkg.interop.directory import adapter_directory, model_directory

    workspace = _workspace(project, user)
    if form == "peft":
        return adapter_directory(workspace, name)
    if form != "hf":
        raise RunError("M709", choice=f"form {form!r}", reason="there are 'hf' and 'peft'")
    return model_directory(workspace, name)


@os_errors_told()
def run(
    name: str,
    text: str | Sequence[dict[str, str]],
    *,
    project: str | PathLike[str] | None = None,
    user: bool = False,
    **options: Any,
) -> TaskResult:
    """Load an installed model and run its task on a text, as ``modpkg run`` does.

    >>> modpkg.run("summarizer", "A long text …").text  # doctest: +SKIP

    What runs more than once is faster with `pipeline`, which keeps the model.

    Args:
        name: Name of the model.
        text: The input text, or a conversation.
        project: Folder of the project; see `load`.
        user: Use the user's environment, even inside of a project.
        options: Options of the pipeline, like ``temperature=0.7`` or ``prompt_name="query"``.

    Raises:
        ModpkgError: The model is not installed, cannot be loaded, or has no supported task.
    """
    result: TaskResult = pipeline(name, project=project, user=user)(text, **options)
    return result


def _workspace(project: str | PathLike[str] | None, user: bool) -> Workspace:
    """Return the workspace that the arguments of a function here name.

    Without any it is that of the project around the working folder, if that is also the one that
    the calling code is in, else the user's.
    """
    from modpkg.environment.project import project_for, project_in
    from modpkg.environment.workspace import Workspace

    if project is not None and user:
        raise RunError("M709", choice="user=True", reason="a project is named beside it")
    if project is not None:
        return Workspace(project_in(project))
    if user:
        return Workspace(user=True)
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in (__name__, "contextlib"):
        frame = frame.f_back
    return Workspace(project_for(frame.f_globals.get("__file__")))
