"""From the names in an adapter's file to tensors of a base.

PEFT's paths are those of the model class it was trained in, so one leading part (``bert.``,
``model.``, ``transformer.``) may be missing on either side; but it is the same for all tensors of
an adapter. A base's names are those on disk, which transformers changes for some architectures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from modpkg.adapters.changes import Adapter
from modpkg.core.errors import ReleaseError

_PREFIXES = ("base_model.model.", "base_model.")
_WRAPPERS = re.compile(r"\.(?:base_layer|token_adapter|modules_to_save\.default)\b")
_SAVED = re.compile(r"\.modules_to_save\b")
TOKENS = "trainable_tokens_delta"
_LONGEST = 1000

# By model_type: how a path in memory is spelled on disk.
_ON_DISK: dict[str, tuple[tuple[str, str], ...]] = {
    "gpt_neox": ((r"^lm_head\.", "embed_out."),),
    "mixtral": (
        (r"\.mlp\.experts\.(\d+)\.gate_proj\.", r".block_sparse_moe.experts.\1.w1."),
        (r"\.mlp\.experts\.(\d+)\.up_proj\.", r".block_sparse_moe.experts.\1.w3."),
        (r"\.mlp\.experts\.(\d+)\.down_proj\.", r".block_sparse_moe.experts.\1.w2."),
        (r"\.mlp\.gate\.", ".block_sparse_moe.gate."),
    ),
}


class Parsed(Struct, frozen=True):
    """An adapter's tensors, sorted by what they are."""

    sites: dict[str, dict[str, str]]
    """By module path, the method's own tensors by role."""
    shared: dict[str, str]
    """The method's tensors that belong to the whole model, by role."""
    tokens: dict[str, str]
    """By module path, new rows of an embedding."""
    plain: dict[str, str]
    """By name in the model, whole tensors of it."""
    unused: list[str]
    """Tensors that change nothing: copies of others, and what PEFT keeps without using it."""


def parse(adapter: Adapter, parts: Mapping[str, str]) -> Parsed:
    """Sort an adapter's tensors; ``parts`` gives the role of each part that the method writes.

    Raises:
        ComposeError: there is no tensor. ReleaseError: two are for the same place.
    """
    if not adapter.names:
        raise adapter.refuse("it holds no tensor at all")
    stems = "|".join(sorted({re.escape(part.partition(".")[0]) for part in (*parts, TOKENS)}))
    shape = re.compile(
        rf"^(?:(?P<path>.+)\.)?(?P<stem>{stems})(?:\.default)?(?P<leaf>\.(?:weight|bias))?$"
    )
    found = Parsed({}, {}, {}, {}, [])
    taken: dict[tuple[str, str], str] = {}
    for name in sorted(adapter.names):
        path = name
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                path = name.removeprefix(prefix)
                break
        if ".original_module." in path:
            found.unused.append(name)  # PEFT keeps it beside the one it uses
            continue
        match = shape.match(path) if len(path) <= _LONGEST else None
        if match is None:
            place = _SAVED.sub("", _WRAPPERS.sub("", path))
            role, table = "", found.plain
        else:
            place = match["path"] or ""
            role, table = match["stem"] + (match["leaf"] or ""), {}
        if (other := taken.setdefault((place, role), name)) != name:
            if match is None and adapter.equal(name, other):
                found.unused.append(name)
                continue
            raise adapter.unbound(name, f"{other!r} is for the same place")
        if match is None:
            table[place] = name
        elif role == TOKENS:
            found.tokens[_WRAPPERS.sub("", place)] = name
        elif role not in parts:
            raise adapter.refuse(f"tensor {name!r} is not a part that its method is known to have")
        elif place:
            found.sites.setdefault(place, {})[parts[role]] = name
        else:
            found.shared[parts[role]] = name
    return found


class Names(Struct, frozen=True):
    """How this adapter's names become those of the base: one change of the leading part."""

    adapter: Adapter
    strip: str = ""
    add: str = ""

    def find(self, name: str) -> str | None:
        """Return the base's name for a name in the model, if the base has it."""
        return next((n for n in self._spelled(name) if n in self.adapter.base), None)

    def expected(self, name: str) -> str:
        """Return the name that a tensor has in the base, or would have."""
        found = self.find(name) or next(self._spelled(name), None)
        return found if found is not None else name

    def _spelled(self, name: str) -> Iterator[str]:
        if not name.startswith(self.strip):
            return
        plain = self.add + name.removeprefix(self.strip)
        yield plain
        for pattern, replacement in _ON_DISK.get(self.adapter.architecture or "", ()):
            spelled = re.sub(pattern, replacement, plain)
            if spelled != plain:
                yield spelled


def names_of(adapter: Adapter, wanted: Mapping[str, str]) -> Names:
    """Return the one way of spelling under which the base has every tensor in ``wanted``.

    ``wanted`` gives, by name in the model, the adapter's tensor that needs it.

    Raises:
        ReleaseError: some tensor has no place in the base.
    """
    stripped = {name.partition(".")[0] + "." for name in wanted if name.count(".") > 1}
    added = {name.partition(".")[0] + "." for name in adapter.base if "." in name}
    candidates = [
        Names(adapter),
        *(Names(adapter, strip=part) for part in sorted(stripped)),
        *(Names(adapter, add=part) for part in sorted(added)),
    ]
    whole = [c for c in candidates if all(c.find(name) is not None for name in wanted)]
    if whole and (whole[0] is candidates[0] or len(whole) == 1):
        return whole[0]
    example = min(wanted)
    if whole:
        raise adapter.unbound(
            wanted[example],
            f"both {whole[0].find(example)!r} and {whole[1].find(example)!r} are there",
        )
    best = max(candidates, key=lambda c: sum(c.find(name) is not None for name in wanted))
    if not any(best.find(name) is not None for name in wanted):
        raise ReleaseError(
            "M207",
            module=adapter.module,
            base=adapter.base_name,
            example=wanted[example],
            target=example,
        )
    name = min(name for name in wanted if best.find(name) is None)
    raise adapter.unbound(wanted[name], f"there is no {best.expected(name)!r} to act on")
