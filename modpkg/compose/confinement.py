"""Transformers kept from running code of a model's author and from asking a hub.

A config can name code of its own, a kernel (native code) or a backbone on a hub. What names them
is refused or left out before a config reaches transformers (`modpkg.compose.named_code`); this is
the second wall, for what a newer version of transformers may look at: while a model or tokenizer
is read or run, the functions that would fetch or run something refuse, and chat templates are
rendered elsewhere (`modpkg.compose.templates`). Outside of that they do what they did, for this
process may use transformers for other things.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from modpkg.compose.template_process import COMPILER
from modpkg.compose.templates import BoundedTemplate
from modpkg.core.errors import RunError
from modpkg.core.extras import import_extra

_active: ContextVar[bool] = ContextVar("confined", default=False)
_TEMPLATES = "transformers.utils.chat_template_utils"
_GUARDS: dict[str, tuple[str, ...]] = {
    "transformers.dynamic_module_utils": (
        "get_class_from_dynamic_module",
        "get_class_in_module",
        "get_cached_module_file",
        "resolve_trust_remote_code",
    ),
    "transformers.integrations.hub_kernels": (
        "get_kernel",
        "load_and_register_attn_kernel",
        "lazy_load_kernel",
    ),
    "huggingface_hub.constants": ("is_offline_mode",),
    _TEMPLATES: (COMPILER,),
    "socket": ("create_connection", "getaddrinfo"),
}
"""By module, the functions that are replaced; those of transformers may move or be missing."""
_ANSWERS: dict[str, Any] = {"is_offline_mode": True, "lazy_load_kernel": None}
"""What a function answers in confinement; the others raise an error."""


@contextlib.contextmanager
def confined() -> Iterator[None]:
    """Keep transformers from fetching anything and from running a model's code, in this thread."""
    _guard_all()
    token = _active.set(True)
    try:
        yield
    finally:
        _active.reset(token)


def chat_template_file() -> str:
    """Return the file in which transformers defines how chat templates are compiled.

    Raises:
        RunError: Another version has no such function, so that templates would not be bounded.
    """
    module = sys.modules.get(_TEMPLATES)
    file = getattr(module, "__file__", None)
    if file is None or not hasattr(getattr(module, COMPILER, None), "confines"):
        raise RunError("M746")
    return str(file)


def _guard_all() -> None:
    for home in _GUARDS:
        if home not in sys.modules:
            import_extra(home, what="Running a model", extra="transformers", package="transformers")
    for home, names in _GUARDS.items():
        module = sys.modules.get(home)
        for name in names:
            original = getattr(module, name, None)
            if original is not None and not hasattr(original, "confines"):
                _replace_everywhere(name, original, _guarded(name, original))


def _replace_everywhere(name: str, original: Any, guarded: Any) -> None:
    """Replace a function in each loaded module that has imported it; later ones import ours."""
    for key, module in list(sys.modules.items()):
        ours = key.split(".")[0] in ("transformers", "huggingface_hub", "socket")
        # Not getattr: a lazy package would import the module that has the name.
        if ours and vars(module).get(name) is original:
            setattr(module, name, guarded)


def _guarded(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not _active.get():
            return original(*args, **kwargs)
        if name == "resolve_trust_remote_code":
            return _without_code(*args, **kwargs)
        if name == COMPILER:
            return BoundedTemplate(args[0], chat_template_file())
        if name in _ANSWERS:
            return _ANSWERS[name]
        if original.__module__ == "socket":
            raise OSError("a model is loaded and run without a network")
        raise ValueError("it names code that would have to be fetched")

    guarded.confines = True  # type: ignore[attr-defined]
    return guarded


def _without_code(
    trust_remote_code: Any,
    model_name: Any,
    has_local_code: bool,
    has_remote_code: bool,
    *others: Any,
    **named: Any,
) -> bool:
    """Stand in for the function that would ask on the terminal whether to run the code."""
    if has_remote_code and not has_local_code:
        raise ValueError("it requires code that transformers does not have")
    return False
