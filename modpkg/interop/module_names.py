"""Paths of a base's modules, found by names that have underscores in place of dots.

``text_model_encoder_layers_0_self_attn_q_proj`` does not tell where its dots are, but the base's
own names do. All names of a file are looked up in the same way: as they are, or without the leading
part that only the base or only the file has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping

from modpkg.core.errors import ModpkgError
from modpkg.core.tensors import TypedTensor
from modpkg.release.base import Base

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the weights of modules, by path of the module."""

_MOST_PARTS = 6
"""A base has no more parts than this before the name that a file has for its module."""
_MOST_WORDS = 4
"""A file has no more words than this before the base's name."""


class UnknownModules(Exception):
    """Names that do not tell modules of the base; the text says which."""


def weights_of(tensors: Mapping[str, TypedTensor]) -> Shapes:
    """Return the shapes of the weights of modules, by path."""
    return {
        name.removesuffix(".weight"): tuple(tensor.shape)
        for name, tensor in tensors.items()
        if name.endswith(".weight")
    }


def weights_in_memory(label: str, base: Base) -> tuple[Shapes, Callable[[str], str]]:
    """Return the weights of a base as transformers has them in memory, if it can tell."""
    from modpkg.runtime.memory_layout import layout_of

    try:
        layout = layout_of(label, base.config(), base.provides.tensors)
    except ModpkgError:
        layout = None
    shapes = {} if layout is None else layout.shapes
    end = ".weight"
    return {n.removesuffix(end): s for n, s in shapes.items() if n.endswith(end)}, str


def paths_of(names: Collection[str], shapes: Shapes) -> dict[str, str]:
    """Return the paths of a base's modules by names with underscores in place of dots.

    Raises:
        UnknownModules: A name is for no module or could be for several.
    """
    index: dict[str, dict[str, list[str]]] = {}
    for path in shapes:
        parts = path.split(".")
        for start in range(min(len(parts), _MOST_PARTS + 1)):
            name, prefix = "_".join(parts[start:]), ".".join(parts[:start])
            index.setdefault(name, {}).setdefault(prefix, []).append(path)
    ways = list(_ways(names, index))
    plain = [way for way in ways if way == (0, "")]
    if not ways:
        raise UnknownModules(_missing(names, index))
    found = [_paths(names, index, *way) for way in plain or ways]
    for other in found[1:]:
        for name, paths in other.items():
            if paths != found[0][name]:
                raise UnknownModules(_ambiguous(name, found[0][name] + paths))
    for name, paths in found[0].items():
        if len(paths) > 1:
            raise UnknownModules(_ambiguous(name, paths))
    return {name: paths[0] for name, paths in found[0].items()}


def _ways(
    names: Collection[str], index: Mapping[str, Mapping[str, object]]
) -> Iterator[tuple[int, str]]:
    """Yield (words that only the file has, parts that only the base has) that fit all names."""
    common = set.intersection(*(set(index.get(name, {})) for name in names))
    for prefix in sorted(common):
        yield 0, prefix
    words = [name.split("_") for name in names]
    for count in range(1, _MOST_WORDS + 1):
        if len({tuple(each[:count]) for each in words}) > 1:
            return
        if all(len(each) > count and "" in index.get(_cut(each, count), {}) for each in words):
            yield count, ""


def _cut(words: list[str], count: int) -> str:
    return "_".join(words[count:])


def _paths(
    names: Collection[str], index: Mapping[str, Mapping[str, list[str]]], count: int, prefix: str
) -> dict[str, list[str]]:
    return {name: index[_cut(name.split("_"), count)][prefix] for name in sorted(names)}


def _missing(names: Collection[str], index: Mapping[str, object]) -> str:
    absent = sorted(name for name in names if name not in index)
    if not absent:
        return f"its {len(names)} modules are in different parts of it, as {min(names)!r}"
    if len(absent) == len(names):
        return f"it has none of the {len(names)} modules, as {absent[0]!r}"
    return f"it has no module {absent[0]!r} ({len(absent)} of {len(names)} are missing)"


def _ambiguous(name: str, paths: list[str]) -> str:
    return f"{name!r} could be {paths[0]!r} or {paths[1]!r}"


# Names of the original U-Net ------------------------------------------------------------------

_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_SINGLE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_BLOCK = re.compile(
    r"(?P<side>down|up)_blocks\.(?P<block>\d{1,3})\."
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<number>\d{1,3})\.(?P<rest>.+)"
)
_MIDDLE = re.compile(r"mid_block\.(?P<kind>resnets|attentions)\.(?P<number>[01])\.(?P<rest>.+)")


def with_original_names(shapes: Shapes) -> tuple[Shapes, Callable[[str], str]]:
    """Return a U-Net of diffusers under its original names, and what gives its own ones back.

    Files for Stable Diffusion XL have the original names (``input_blocks``). The numbers follow
    from how many blocks the model has, as in diffusers' ``convert_diffusers_to_original_sdxl.py``.
    Another model keeps its names.
    """
    blocks = {path: match for path in shapes if (match := _BLOCK.fullmatch(path))}
    resnets = [match for match in blocks.values() if match["kind"] == "resnets"]
    down = [int(match["number"]) for match in resnets if match["side"] == "down"]
    if not down:
        return {}, lambda path: path
    layers = max(down) + 1
    attended = {
        int(match["block"])
        for match in blocks.values()
        if (match["side"], match["kind"]) == ("up", "attentions")
    }
    own: dict[str, str] = {}
    for path in shapes:
        original = _SINGLE.get(path)
        if (match := blocks.get(path)) is not None:
            block, number = int(match["block"]), int(match["number"])
            original = _original(match, block, number, layers, block in attended)
        elif (middle := _MIDDLE.fullmatch(path)) is not None:
            place = 1 if middle["kind"] == "attentions" else 2 * int(middle["number"])
            original = _inner(f"middle_block.{place}", middle["kind"], middle["rest"])
        if original is not None:
            own[original] = path
    return {name: shapes[path] for name, path in own.items()}, own.__getitem__


def _original(
    match: re.Match[str], block: int, number: int, layers: int, attended: bool
) -> str | None:
    kind, rest = match["kind"], match["rest"]
    if kind == "downsamplers":
        place = (layers + 1) * (block + 1)
        return f"input_blocks.{place}.0.op" if rest == "conv" else None
    if kind == "upsamplers":
        place = (layers + 1) * block + layers
        return f"output_blocks.{place}.{2 if attended else 1}.conv" if rest == "conv" else None
    side, first = ("input_blocks", 1) if match["side"] == "down" else ("output_blocks", 0)
    place = (layers + 1) * block + number + first
    return _inner(f"{side}.{place}.{1 if kind == 'attentions' else 0}", kind, rest)


def _inner(place: str, kind: str, rest: str) -> str | None:
    if kind == "attentions":
        return f"{place}.{rest}"
    return f"{place}.{_RESNET[rest]}" if rest in _RESNET else None
