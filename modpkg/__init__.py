"""modpkg: a package manager for models.

Load and run the models that ``modpkg install`` composed:

>>> import modpkg
>>> model = modpkg.load("summarizer")  # a torch.nn.Module  # doctest: +SKIP
>>> modpkg.run("summarizer", "A long text …").text  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from modpkg.core.errors import ModpkgError
from modpkg.core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from modpkg.runtime.live import LiveModel
    from modpkg.runtime.tasks import TaskResult

__all__ = ["ModpkgError", "__version__", "load", "path", "run"]


@overload
def load(name: str, *, live: Literal[False] = ..., user: bool = ...) -> torch.nn.Module: ...


@overload
def load(name: str | Sequence[str], *, live: Literal[True], user: bool = ...) -> LiveModel: ...


def load(
    name: str | Sequence[str], *, live: bool = False, user: bool = False
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

    Args:
        name: Name of the model; with ``live``, optionally several models of one base.
        live: Keep adapters separate from the base.
        user: Use the user's environment, even inside of a project.

    Raises:
        ModpkgError: The model is not installed, cannot be loaded, or cannot be loaded live.
        TypeError: Several names were given without ``live``.
    """
    from modpkg.environment.workspace import Workspace

    names = [name] if isinstance(name, str) else list(name)
    if live:
        from modpkg.runtime.live import load_live

        return load_live(names, Workspace(user=user))
    from modpkg.runtime.installed import find_model
    from modpkg.runtime.load import load_model

    if len(names) != 1:
        raise TypeError("loading several models requires live=True")
    return load_model(*find_model(names[0], Workspace(user=user)))


def path(name: str, *, user: bool = False) -> Path:
    """Return a directory with an installed model that ``from_pretrained`` can load.

    The directory is written on the first call, weights included, and kept as long as the
    environment has the model. `load` does not need it.

    >>> from transformers import AutoModel  # doctest: +SKIP
    >>> model = AutoModel.from_pretrained(modpkg.path("summarizer"))  # doctest: +SKIP

    Args:
        name: Name of the model.
        user: Use the user's environment, even inside of a project.

    Raises:
        ModpkgError: The model is not installed, or the directory cannot be written.
    """
    from modpkg.environment.workspace import Workspace
    from modpkg.interop.directory import directory_of
    from modpkg.runtime.installed import find_model

    return directory_of(*find_model(name, Workspace(user=user)))


def run(name: str, text: str, *, prompt_name: str | None = None, user: bool = False) -> TaskResult:
    """Run an installed model's task on a text, as ``modpkg run`` does.

    >>> modpkg.run("summarizer", "A long text …").text  # doctest: +SKIP

    Args:
        name: Name of the model.
        text: The input text.
        prompt_name: Name of one of the prompts of a sentence-transformers model, instead of its
            default one.
        user: Use the user's environment, even inside of a project.

    Raises:
        ModpkgError: The model is not installed, cannot be loaded, or has no supported task.
    """
    from modpkg.environment.workspace import Workspace
    from modpkg.runtime.installed import find_model
    from modpkg.runtime.tasks import run_task

    return run_task(*find_model(name, Workspace(user=user)), text, prompt_name=prompt_name)
