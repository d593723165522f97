"""What transformers reports when it loads weights, from their names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from modpkg.compose.backing import parts_bounded
from modpkg.compose.confinement import confined
from modpkg.core.errors import MissingExtra, RunError
from modpkg.core.name_ends import NamesByEnd
from modpkg.core.printable import error_text
from modpkg.core.tensors import DTypeShape
from modpkg.runtime.architecture import NOT_ONE, model_class
from modpkg.runtime.architecture_report import LoadingReport
from modpkg.runtime.sentence_encoder import encoder_parts


class _Header:
    """A tensor of which only dtype and shape are known; transformers reads it like a slice."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.used = False

    def __getitem__(self, index: Any) -> _Header:
        self.used = True
        return self

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.empty(self.shape, dtype=dtype, device="meta")


def loading_report(name: str, folder: Path, types: Mapping[str, DTypeShape]) -> LoadingReport:
    """Return what transformers reports for tensors of these types and the configs in ``folder``.

    The model is built on the meta device, so that neither it nor the weights take memory; one of
    more modules than its tensors could fill is not built to the end.

    Raises:
        RunError: The architecture is unknown, its config is invalid, or transformers cannot convert
            the tensors.
        MissingExtra: Transformers is not installed.
    """
    cls, config = model_class(name, folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    headers: Any = {tensor: _Header(shape) for tensor, (_, shape) in types.items()}
    cls, headers = encoder_parts(name, cls, config, headers)
    seen: set[str] = set()

    def adjust(self: Any, info: Any) -> None:
        seen.update(info.unexpected_keys)
        cls._adjust_missing_and_unexpected_keys(self, info)

    judged: Any = type(
        cls.__name__,
        (cls,),
        {
            "__module__": cls.__module__,
            # what is missing stays on the meta device
            "_move_missing_keys_from_meta_to_device": lambda self, *args, **kwargs: None,
            "_initialize_missing_keys": lambda self, *args, **kwargs: None,
            "_adjust_missing_and_unexpected_keys": adjust,
        },
    )
    from transformers.initialization import no_init_weights

    try:
        with no_init_weights(), confined(), parts_bounded(name, len(types)):
            model, info = judged.from_pretrained(
                None,
                config=config,
                state_dict=headers,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
            )
    except ImportError as error:
        text = " ".join(str(error).split())[:300]
        raise MissingExtra("M723", name=name, reason=text) from None
    except RunError:
        raise
    except Exception as error:  # transformers' constructors and conversions raise many types
        text = error_text(error)
        if not any(header.used for header in headers.values()):
            text = f"config.json is invalid ({text})"
        raise RunError("M704", name=name, reason=text) from None
    ignored = NamesByEnd(seen - info["unexpected_keys"])
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return LoadingReport(
        missing=tuple(sorted(map(str, info["missing_keys"]))),
        unexpected=tuple(
            tensor
            for tensor, header in sorted(headers.items())
            if info["unexpected_keys"]
            and not header.used
            and not ignored.like(tensor)
            and not any(re.search(pattern, tensor) for pattern in patterns)
        ),
        mismatched=tuple(
            f"{key} ({list(held)} instead of {list(wanted)})"
            for key, held, wanted in sorted(info["mismatched_keys"], key=str)
        ),
        tied=tuple(_tied(model, headers)),
        architecture=cls.__name__,
        model_type=str(type(config).model_type),
    )


def _tied(model: Any, tensors: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of tensors that a model ties, where each is one of ``tensors``."""
    known = NamesByEnd(tensors)
    for pair in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        one, other = (known.like(key) for key in pair)
        if len(one) == len(other) == 1 and one != other:
            yield one[0], other[0]


def report_or_reason(
    name: str, folder: Path, types: Mapping[str, DTypeShape]
) -> tuple[LoadingReport | None, str]:
    """Return the report for a base, or why there is none: it may be for another machine's packages.

    Raises:
        RunError: Its config is invalid, names custom code, or transformers cannot convert the
            tensors.
    """
    try:
        return loading_report(name, folder, types), ""
    except MissingExtra as error:
        return None, str(error)
    except RunError as error:
        if error.code != "M702" and error.values.get("reason") != NOT_ONE:
            raise
        return None, str(error)
