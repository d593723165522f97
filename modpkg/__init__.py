"""modpkg: a package manager for models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from modpkg.core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from modpkg.runtime.live import LiveModel
    from modpkg.runtime.tasks import TaskResult

__all__ = ["__version__", "load", "path", "run"]


@overload
def load(name: str, *, live: Literal[False] = ..., user: bool = ...) -> torch.nn.Module: ...


@overload
def load(name: str | Sequence[str], *, live: Literal[True], user: bool = ...) -> LiveModel: ...


def load(
    name: str | Sequence[str], *, live: bool = False, user: bool = False
) -> torch.nn.Module | LiveModel:
    """Return an installed model, ready to run.

    The parameters are mapped from the environment's packs: nothing is copied, nothing is
    initialised at random, no network is used. The model is found in the project around the
    working folder, or, outside a project or with ``user``, in the user's own environment.

    >>> import modpkg
    >>> model = modpkg.load("summarizer")  # doctest: +SKIP

    With ``live`` the adapters stay apart from the base, so that they can be switched, weighted, and
    chosen for each row of a batch; ``name`` may then be several models of one base.

    >>> model = modpkg.load(["summarizer", "translator"], live=True)  # doctest: +SKIP
    >>> model.set_adapter("translator")  # doctest: +SKIP
    >>> model.generate(ids, adapter_names=["summarizer", "__base__"])  # doctest: +SKIP

    Raises:
        modpkg.core.errors.InstallError, RunError: says what to do.
        modpkg.core.errors.RunError: the models cannot be live, or not together.
    """
    names = [name] if isinstance(name, str) else list(name)
    if live:
        from modpkg.runtime.live import load_live

        return load_live(names, user=user)
    from modpkg.runtime.installed import find_model
    from modpkg.runtime.load import load_model

    if len(names) != 1:
        raise TypeError("several models are loaded together with live=True alone")
    return load_model(*find_model(names[0], user=user))


def path(name: str, *, user: bool = False) -> Path:
    """Return a directory with an installed model, as transformers and its friends open it.

    It is written the first time, weights included, and kept as long as the environment has the
    model. ``load`` needs no such copy.

    >>> from transformers import AutoModel  # doctest: +SKIP
    >>> model = AutoModel.from_pretrained(modpkg.path("summarizer"))  # doctest: +SKIP

    Raises:
        modpkg.core.errors.InstallError, RunError: says what to do.
    """
    from modpkg.interop.directory import directory_of
    from modpkg.runtime.installed import find_model

    return directory_of(*find_model(name, user=user))


def run(name: str, text: str, *, user: bool = False) -> TaskResult:
    """Run an installed model on a text, as ``modpkg run`` does, and return what it gave.

    >>> modpkg.run("summarizer", "A long text …").text  # doctest: +SKIP

    Raises:
        modpkg.core.errors.InstallError, RunError: says what to do.
    """
    from modpkg.runtime.installed import find_model
    from modpkg.runtime.tasks import run_task

    return run_task(*find_model(name, user=user), text)
