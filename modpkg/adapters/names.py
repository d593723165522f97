"""From the tensor names in an adapter's file to the names of a base's tensors.

PEFT's paths are those of the model class that was trained, so one leading part (``bert.``,
``model.``, ``transformer.``) may be missing on either side, the same for all tensors of an adapter.
A base's names are those on disk, which transformers renames for some architectures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, structs

from modpkg.adapters.changes import Adapter
from modpkg.adapters.wrappers import has_module_named_module, unwrapped
from modpkg.core.bounds import PARAMETER_CHARACTERS
from modpkg.core.errors import ReleaseError
from modpkg.core.names import listed

TOKENS = "trainable_tokens_delta"
_PREFIXES = ("base_model.model.", "base_model.")
_WRAPPERS = re.compile(r"\.(?:base_layer|token_adapter|modules_to_save\.default)\b")
_SAVED = re.compile(r"\.modules_to_save\b")
_ENDS = ("weight", "bias")
_OUT_PROJECTION = ".base_layer.out_proj"
"""PEFT wraps the output projection within the attention that it wraps too."""
_AROUND = re.compile(r"(?:\.base_layer)+(?=\.(?!base_layer(?:\.|$)))")
"""PEFT wraps a module of whose own parameters it changes one (``target_parameters``)."""
_NAMING = (
    "alpha_pattern",
    "block_size_pattern",
    "exclude_modules",
    "feedforward_modules",
    "lambda_pattern",
    "modules_to_save",
    "n_frequency_pattern",
    "rank_pattern",
    "target_modules",
    "target_parameters",
    "token_indices",
    "trainable_token_indices",
)
"""Settings that name modules."""

_ON_DISK: dict[str, tuple[tuple[str, str], ...]] = {
    "gpt_neox": ((r"^lm_head\.", "embed_out."),),
    "mixtral": (
        (r"\.mlp\.experts\.(\d+)\.gate_proj\.", r".block_sparse_moe.experts.\1.w1."),
        (r"\.mlp\.experts\.(\d+)\.up_proj\.", r".block_sparse_moe.experts.\1.w3."),
        (r"\.mlp\.experts\.(\d+)\.down_proj\.", r".block_sparse_moe.experts.\1.w2."),
        (r"\.mlp\.gate\.", ".block_sparse_moe.gate."),
    ),
}
"""By ``model_type``, substitutions from a name in memory to the name on disk."""


class AdapterTensors(Struct, frozen=True):
    """The names of an adapter's tensors, grouped by what they are for."""

    sites: dict[str, dict[str, str]]
    """The method's tensors, by module path and role."""
    shared: dict[str, str]
    """The method's tensors that belong to the whole model, by role."""
    tokens: dict[str, str]
    """New rows of an embedding, by module path."""
    plain: dict[str, str]
    """Tensors that replace one of the model's, by name in the model."""
    unused: list[str]
    """Tensors that change nothing: duplicates, and those that PEFT saves without using them."""
    attention: set[str]
    """Sites that are a `torch.nn.MultiheadAttention`, which has three projections in one weight."""


def group_tensors(adapter: Adapter, keys: Mapping[str, str]) -> AdapterTensors:
    """Return an adapter's tensors in groups; ``keys`` are the method's, with their roles.

    A ``*`` in a key stands for one part of a name, a number for example, which is appended to the
    role. Tensors of a key without a role are saved by PEFT, but not used.

    Raises:
        ComposeError: The adapter has no tensor, or one with a key that the method does not write.
        ReleaseError: Two tensors are for the same module and role.
    """
    if not adapter.names:
        raise adapter.refuse("it has no tensors")
    stems = _stems(keys)
    leaves = {re.escape(key.partition(".")[2]) for key in keys} - {""} | {*_ENDS}
    leaf = "|".join(sorted(leaves)).replace(r"\*", r"\w+")
    method_name = re.compile(
        rf"^(?:(?P<path>.+)\.)?(?P<stem>{stems})(?:\.default)?(?P<leaf>\.(?:{leaf}))?$"
    )
    tensors = AdapterTensors({}, {}, {}, {}, [], set())
    first: dict[tuple[str, str], str] = {}
    own = has_module_named_module(adapter.base)
    own_layers = any(".base_layer." in name for name in adapter.base)
    attentions = any(name.endswith("in_proj_weight") for name in adapter.base)
    own_name = name_among_adapters(adapter, keys)
    for name in sorted(adapter.names):
        plain = without_own_name(name, own_name, keys)
        path = path_in_model(plain, own, keeps_wrappers=adapter.keeps_wrappers)
        if ".original_module." in path:
            tensors.unused.append(name)  # PEFT saves it beside the trained copy
            continue
        match = method_name.match(path) if len(path) <= PARAMETER_CHARACTERS else None
        if match is None:
            path, key = _SAVED.sub("", _WRAPPERS.sub("", path)), ""
        else:
            path, key = match["path"] or "", match["stem"] + (match["leaf"] or "")
            if attentions and path.endswith(_OUT_PROJECTION):
                path = path.removesuffix(_OUT_PROJECTION)
                tensors.attention.add(path)
                path += ".out_proj"
            elif not own_layers:
                path = _AROUND.sub("", path)
        if (other := first.setdefault((path, key), name)) != name:
            if match is None and adapter.equal(name, other):
                tensors.unused.append(name)
                continue
            raise adapter.unbound(name, f"{other!r} is for the same module and role")
        if match is None:
            tensors.plain[path] = name
        elif key == TOKENS:
            tensors.tokens[_WRAPPERS.sub("", path)] = name
        elif (role := _role(keys, key)) is None:
            raise adapter.refuse(f"tensor {name!r} is not one that its method writes")
        elif not role:
            tensors.unused.append(name)
        elif path:
            tensors.sites.setdefault(path, {})[role] = name
        else:
            tensors.shared[role] = name
    for roles in tensors.sites.values():
        for role in roles.keys() & tensors.shared.keys():
            copy = roles.pop(role)  # PEFT saves what layers share for each of them too
            if not adapter.equal(copy, tensors.shared[role]):
                raise adapter.unbound(copy, f"it is not equal to {tensors.shared[role]!r}")
            tensors.unused.append(copy)
    for path in [path for path, roles in tensors.sites.items() if not roles]:
        del tensors.sites[path]
    return tensors


def _stems(keys: Iterable[str]) -> str:
    """Return a pattern of what stands in a tensor's name between its module and the rest."""
    return "|".join(sorted({re.escape(key.partition(".")[0]) for key in (*keys, TOKENS)}))


def name_among_adapters(adapter: Adapter, keys: Iterable[str]) -> str | None:
    """Return the name that an adapter had in PEFT's model; None if its tensors do not have it.

    ``state_dict()`` of the model itself has it, in the names of all tensors of its method:
    ``q_proj.lora_A.style.weight``. `save_pretrained` takes it out.

    Raises:
        ComposeError: There are several, which are several adapters.
    """
    parts: dict[str, set[str]] = {}
    for key in (*keys, TOKENS):
        stem, _, rest = key.partition(".")
        parts.setdefault(stem, {*_ENDS}).add(rest.partition(".")[0])
    after = re.compile(rf"(?:^|\.)({_stems(keys)})(?:\.([^.]+))?(?:\.|$)")
    found: set[str] = set()
    for name in adapter.names:
        match = after.search(name) if len(name) <= PARAMETER_CHARACTERS else None
        if match is None or "*" in parts[match[1]]:
            continue
        if match[2] is None or match[2] in parts[match[1]]:
            return None
        found.add(match[2])
    if len(found) > 1:
        raise adapter.refuse(
            f"its file has the tensors of several adapters ({listed(found)}); save each "
            "with PEFT's save_pretrained(…, selected_adapters=[…]) and import it from its folder"
        )
    return found.pop() if len(found) == 1 else None


def without_own_name(name: str, own_name: str | None, keys: Iterable[str]) -> str:
    """Return a tensor's name as `save_pretrained` writes it, without that of the adapter.

    >>> without_own_name("q.lora_A.style.weight", "style", ["lora_A.weight"])
    'q.lora_A.weight'
    """
    if own_name is None or len(name) > PARAMETER_CHARACTERS:
        return name
    own = re.escape(own_name)
    place = rf"((?:^|\.)(?:{_stems(keys)})(?:\.[^.]+)?)\.{own}(?=\.|$)"
    name = re.sub(place, r"\1", name)
    return re.sub(rf"\.modules_to_save\.{own}(?=\.)", "", name)


def path_in_model(name: str, own: bool, *, keeps_wrappers: bool = False) -> str:
    """Return the name of an adapter's tensor without PEFT's prefix and trainers' wrappers.

    Args:
        name: The tensor's name in the file.
        own: Whether the model itself has a module called ``module``.
        keeps_wrappers: Whether wrappers inside of PEFT's model stay.

    >>> path_in_model("module.base_model.model._orig_mod.head.weight", False, keeps_wrappers=True)
    '_orig_mod.head.weight'
    """
    place = f".{name}".find(".base_model.") if keeps_wrappers else -1
    path = unwrapped(name, own) if place < 0 else unwrapped(name[:place], own) + name[place:]
    return next((path.removeprefix(p) for p in _PREFIXES if path.startswith(p)), path)


def spellings(adapter: Adapter) -> list[Adapter]:
    """Return an adapter with the paths that its settings may have been matched with.

    Wrappers inside of PEFT's model were there when PEFT matched patterns and targets, if the model
    was wrapped first, or not, if it was wrapped later. Settings that name one tell.
    """
    own = has_module_named_module(adapter.base)
    wrappers: set[str] = set()
    for name in adapter.names:
        path = path_in_model(name, own, keeps_wrappers=True)
        if (plain := unwrapped(path, own)) != path:
            wrappers |= {*path.split(".")} - {*plain.split(".")}
    if not wrappers:
        return [adapter]
    kept = structs.replace(adapter, keeps_wrappers=True)
    word = re.compile(rf"(?<!\w)(?:{'|'.join(sorted(wrappers))})(?!\w)")
    named = any(word.search(str(adapter.config.get(key))) for key in _NAMING)
    return [kept] if named else [adapter, kept]


def _role(keys: Mapping[str, str], key: str) -> str | None:
    """Return the role of a key: "" if its tensors are not used, None if it is unknown."""
    if key in keys:
        return keys[key]
    stem, _, rest = key.partition(".")
    part, _, leaf = rest.partition(".")
    role = keys.get(f"{stem}.*" + (leaf and f".{leaf}"))
    return f"{role}{part}" if role else role


class NameMapping(Struct, frozen=True):
    """From names in the adapter's model to names in the base: one leading part may change."""

    adapter: Adapter
    strip: str = ""
    add: str = ""

    def find(self, name: str) -> str | None:
        """Return the base's name for a name in the model, or None if the base lacks it."""
        return next((n for n in self._candidates(name) if n in self.adapter.base), None)

    def expected(self, name: str) -> str:
        """Return the name that a tensor has in the base, or would have."""
        return self.find(name) or next(self._candidates(name), name)

    def _candidates(self, name: str) -> Iterator[str]:
        name = self.adapter.own_name(name)
        name = self.adapter.renames.get(name, name)
        if not name.startswith(self.strip):
            return
        plain = self.add + name.removeprefix(self.strip)
        yield plain
        for pattern, replacement in _ON_DISK.get(self.adapter.architecture or "", ()):
            renamed = re.sub(pattern, replacement, plain)
            if renamed != plain:
                yield renamed


def find_mapping(adapter: Adapter, required: Mapping[str, str]) -> NameMapping:
    """Return the one mapping under which the base has every required tensor.

    Args:
        adapter: The adapter, with its base.
        required: By name in the model, the adapter's tensor that needs it.

    Raises:
        ReleaseError: A tensor has no counterpart in the base, or two mappings fit.
    """
    required = {adapter.own_name(name): tensor for name, tensor in required.items()}
    stripped = {name.partition(".")[0] + "." for name in required if name.count(".") > 1}
    added = {name.partition(".")[0] + "." for name in adapter.base if "." in name}
    candidates = [
        NameMapping(adapter),
        *(NameMapping(adapter, strip=part) for part in sorted(stripped)),
        *(NameMapping(adapter, add=part) for part in sorted(added)),
    ]
    complete = [c for c in candidates if all(c.find(name) is not None for name in required)]
    if complete and (complete[0] is candidates[0] or len(complete) == 1):
        return complete[0]
    example = min(required)
    if complete:
        raise adapter.unbound(
            required[example],
            f"it could be for {complete[0].find(example)!r} or {complete[1].find(example)!r}",
        )
    best = max(candidates, key=lambda c: sum(c.find(name) is not None for name in required))
    if not any(best.find(name) is not None for name in required):
        raise ReleaseError(
            "M207",
            module=adapter.module,
            base=adapter.base_name,
            example=required[example],
            target=example,
        )
    name = min(name for name in required if best.find(name) is None)
    raise adapter.unbound(required[name], f"the base has no {best.expected(name)!r}")
