"""What a recipe of mergekit means, in numpy's longest floats: the judge of `benchmarks.recipes`.

Written from mergekit's documents and the methods' papers, and of nothing that modpkg computes
with. Where a method leaves a choice (which of equal magnitudes stay, which values a random method
drops), all results that it allows are returned, each of them right.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.longdouble]
Setting = Any
_LAYER = re.compile(r"(?<=layers\.)\d+(?=\.)|(?<=\.h\.)\d+(?=\.)")
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
_BEFORE = (EMBEDDING, "transformer.wte.weight", "transformer.wpe.weight")


class Model(NamedTuple):
    """A model: its tensors, the name of its dtype, its layers, and its tokens by text."""

    tensors: dict[str, Array]
    dtype: str
    layers: int
    tokens: dict[str, int]


class Expected(NamedTuple):
    """What a recipe gives: all right values of each tensor, stacked; its dtype; its tokens."""

    tensors: dict[str, Array]
    dtype: str
    tokens: dict[str, int] | None


def expected(recipe: Mapping[str, Any], models: Mapping[str, Model]) -> Expected:
    """Return what a recipe of mergekit or mergekit-moe gives."""
    if "experts" in recipe:
        return _mixture(recipe, models)
    if "modules" in recipe:
        recipe = {**recipe, **recipe["modules"]["default"]}
    slices = recipe.get("slices")
    if slices is None:
        sources = list(recipe["models"])
        given = recipe.get("base_model")
        if given is not None and all(source["model"] != given for source in sources):
            sources.insert(0, {"model": given})
        count = models[sources[0]["model"]].layers
        slices = [{"sources": [{**s, "layer_range": [0, count]} for s in sources]}]
    used = dict.fromkeys(source["model"] for piece in slices for source in piece["sources"])
    tokens, moved = None, dict(models)
    if section := _tokenizer(recipe):
        tokens, moved = _by_token(section, recipe.get("base_model"), [*used], models)
    found: dict[str, Array] = {}
    names = moved[next(iter(used))].tensors
    for name in names:
        if _LAYER.search(name) is None:
            piece = slices[0 if name in _BEFORE else -1]
            found[name] = _tensor(recipe, piece, [name] * len(piece["sources"]), name, 0.0, moved)
    at = 0
    for piece in slices:
        ranges = [source["layer_range"] for source in piece["sources"]]
        count = ranges[0][1] - ranges[0][0]
        for offset in range(count):
            t = offset / (count - 1) if count > 1 else 1.0
            for name in names:
                if (match := _LAYER.search(name)) is not None and match.group() == "0":
                    own = [_LAYER.sub(str(first + offset), name) for first, _ in ranges]
                    out = _LAYER.sub(str(at), name)
                    found[out] = _tensor(recipe, piece, own, out, t, moved)
            at += 1
    dtype = recipe.get("out_dtype") or recipe.get("dtype")
    if dtype is None:
        dtypes = {models[name].dtype for name in used}
        dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    return Expected(found, dtype, tokens)


# Settings -----------------------------------------------------------------------------------------


def _value(setting: Setting, name: str, t: float) -> Any:
    """Return a setting for a tensor: a value, a gradient, or the first filter that is in a name."""
    items = [setting] if isinstance(setting, dict) else setting
    if not isinstance(items, list):
        return items
    if items and isinstance(items[0], dict):
        for item in items:
            if item.get("filter") in (None, "*") or item["filter"] in name:
                return _value(item["value"], name, t)
        return None
    place = t * (len(items) - 1)
    low = int(place)
    high = min(low + 1, len(items) - 1)
    if isinstance(items[low], bool):
        return items[low]
    share = place - low
    return (1 - share) * float(items[low]) + share * float(items[high])


_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


class _Settings(NamedTuple):
    scopes: Sequence[Mapping[str, Any]]
    name: str
    t: float

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number; one that YAML 1.1 reads as text, such as 1e-5, too."""
        for scope in self.scopes:
            found = _value(scope[key], self.name, self.t) if key in scope else None
            if found is not None:
                return float(_WORDS.get(found, found))
        if default is None:
            raise ValueError(f"{key} is missing")
        return default

    def flag(self, key: str, default: bool) -> bool:
        return bool(self.number(key, float(default)))


def _tensor(
    recipe: Mapping[str, Any],
    piece: Mapping[str, Any],
    names: Sequence[str],
    out: str,
    t: float,
    models: Mapping[str, Model],
) -> Array:
    common = [piece.get("parameters") or {}, recipe.get("parameters") or {}]
    given = piece.get("base_model") or recipe.get("base_model")
    base, entries = None, []
    for source, name in zip(piece["sources"], names, strict=True):
        settings = _Settings([source.get("parameters") or {}, *common], name, t)
        entry = (models[source["model"]].tensors[name], settings)
        if source["model"] == given and recipe["merge_method"] not in ("linear", "karcher"):
            base = entry[0]
        else:
            entries.append(entry)
    method = _METHODS[recipe["merge_method"]]
    return method(base, entries, _Settings(common, out, t))


# Methods ------------------------------------------------------------------------------------------

Entries = Sequence[tuple[Array, _Settings]]
Method = Callable[[Array | None, Entries, _Settings], Array]


def _one(result: Array) -> Array:
    return result[np.newaxis]


def _norm(values: Array) -> Array:
    return np.sqrt(np.sum(values * values, axis=-1, keepdims=True))


def _linear(base: Array | None, entries: Entries, shared: _Settings) -> Array:
    weights = [np.longdouble(own.number("weight")) for _, own in entries]
    total = sum(w * x for w, (x, _) in zip(weights, entries, strict=True))
    return _one(total / sum(weights) if shared.flag("normalize", True) else total)


def _slerp(base: Array | None, entries: Entries, shared: _Settings) -> Array:
    (other, _), t = entries[0], np.longdouble(shared.number("t"))
    a, b = base.ravel(), other.ravel()
    dot = np.clip((a / _norm(a) * (b / _norm(b))).sum(), -1, 1)
    if abs(dot) > 0.9995:
        return _one(((1 - t) * a + t * b).reshape(base.shape))
    theta = np.arccos(dot)
    result = (np.sin((1 - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta)
    return _one(result.reshape(base.shape))


def _nuslerp(base: Array | None, entries: Entries, shared: _Settings) -> Array:
    (x, first), (y, second) = entries
    weights = [np.longdouble(each.number("weight")) for each in (first, second)]
    total = sum(weights)
    t = np.longdouble(0.5) if abs(total) < 1e-6 else weights[1] / total
    origin = np.zeros_like(x) if base is None else base
    a, b = x - origin, y - origin
    turn = False
    if shared.flag("nuslerp_flatten", True):
        a, b = a.ravel(), b.ravel()
    elif turn := shared.flag("nuslerp_row_wise", False) and a.ndim > 1:
        a, b = a.T, b.T
    cosine = ((a / _norm(a)) * (b / _norm(b))).sum(axis=-1, keepdims=True)
    theta = np.arccos(np.clip(cosine, -1, 1))
    result = (np.sin((1 - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta)
    return _one(origin + (result.T if turn else result.reshape(x.shape)))


def _multislerp(base: Array | None, entries: Entries, shared: _Settings) -> Array:
    origin = np.zeros_like(entries[0][0]) if base is None else base
    changes = np.stack([(x - origin).ravel() for x, _ in entries])
    weights = np.array([[own.number("weight")] for _, own in entries], np.longdouble)
    eps = np.longdouble(shared.number("eps", 1e-8))
    if shared.flag("normalize_weights", True):
        weights = weights / weights.sum()
    norms = _norm(changes)
    units = changes / (norms + eps)
    mean = (units * weights).sum(axis=0)
    mean /= _norm(mean)
    tangents = units - (units * mean).sum(axis=-1, keepdims=True) * mean
    tangent = (tangents * weights).sum(axis=0)
    length = _norm(tangent) + eps
    result = mean * np.cos(length) + tangent * (np.sin(length) / length)
    return _one(origin + (result * (norms * weights).sum()).reshape(origin.shape))


def _karcher(base: Array | None, entries: Entries, shared: _Settings) -> Array:
    flat = [x.ravel() for x, _ in entries]
    tol = shared.number("tol", 1e-5)
    norms = [_norm(x) for x in flat]
    units = [x / n for x, n in zip(flat, norms, strict=True)]
    share = np.longdouble(1) / len(units)
    mean = sum(units) * share
    mean /= _norm(mean)
    for _ in range(int(shared.number("max_iter", 10))):
        tangent = np.zeros_like(mean)
        for unit in units:
            dot = np.clip((mean * unit).sum(), -1, 1)
            theta = np.arccos(dot)
            if theta >= tol:
                tangent += share * (theta / np.sin(theta)) * (unit - dot * mean)
        length = _norm(tangent)
        if length < tol:
            break
        mean = np.cos(length) * mean + np.sin(length) * (tangent / length)
        mean /= _norm(mean)
    return _one((sum(norms) * share * mean).reshape(entries[0][0].shape))


def _model_stock(base: Array | None, entries: Entries, shared: _Settings) -> Array:
    rows = shared.flag("filter_wise", False) and base.ndim > 1
    flat = [x if rows else x.ravel() for x, _ in entries]
    origin = base if rows else base.ravel()
    offsets = [x - origin for x in flat]
    cosines = [
        (a * b).sum(axis=-1, keepdims=True) / (_norm(a) * _norm(b))
        for a, b in itertools.combinations(offsets, 2)
    ]
    cosine, count = sum(cosines) / len(cosines), len(flat)
    t = count * cosine / (1 + (count - 1) * cosine)
    return _one((t * (sum(flat) / count) + (1 - t) * origin).reshape(base.shape))


def _nearswap(base: Array | None, entries: Entries, shared: _Settings) -> Array:
    difference = entries[0][0] - base
    t = np.longdouble(shared.number("t"))
    return _one(base + np.clip(difference, -t, t))


def _arcee_fusion(base: Array | None, entries: Entries, shared: _Settings) -> Array:
    other = entries[0][0]

    def chances(values: Array) -> Array:
        grown = np.exp(values - values.max(axis=-1, keepdims=True))
        return grown / grown.sum(axis=-1, keepdims=True) + np.longdouble(1e-8)

    p, q = chances(other), chances(base)
    importance = np.abs(other - base) * (p * np.log(p / q)).sum(axis=-1, keepdims=True)
    ordered = np.sort(importance.ravel())
    low, middle, high = (ordered[int(q * (ordered.size - 1))] for q in (0.25, 0.5, 0.75))
    return _one(np.where(importance >= middle + 1.5 * (high - low), other, base))


def _ram(base: Array | None, entries: Entries, shared: _Settings, *, plus: bool = False) -> Array:
    changes = np.stack([x - base for x, _ in entries])
    epsilon = shared.number("epsilon", 1e-5)
    moved = np.abs(changes) > epsilon
    count = moved.sum(axis=0)
    factors = []
    for each in moved:
        alone = max((each & (count == 1)).sum(), epsilon)
        ratio = np.longdouble((each & (count > 1)).sum()) / np.longdouble(alone)
        ratio = min(max(ratio, 0), shared.number("alpha", 0.2))
        factors.append(1 + np.longdouble(shared.number("r", 0.1)) * ratio if plus else 1)
    shape = (-1, *[1] * base.ndim)
    factor = np.array(factors, np.longdouble).reshape(shape)
    total = np.where(count == 1, factor, 1 / np.longdouble(1) / np.maximum(count, 1))
    return _one(base + (changes * moved * total).sum(axis=0))


def _sce(base: Array | None, entries: Entries, shared: _Settings) -> Array:
    if not entries:
        return _one(base)
    changes = np.stack([x - base for x, _ in entries])
    share = shared.number("select_topk", 1)
    kept, free = np.ones(base.shape, bool), np.zeros(base.shape, bool)
    if share < 1:
        spread = changes.var(axis=0)
        count = int(np.count_nonzero(spread) * share)
        kept, free = _largest(spread, count)
    results = []
    for chosen in (False, True) if free.any() else (False,):
        own = changes * (kept | (free & chosen))
        squares = (own * own).reshape(len(own), -1).mean(axis=1)
        if squares.sum() < 1e-6:
            squares = np.full_like(squares, 1)
        weights = (squares / squares.sum()).reshape(-1, *[1] * base.ndim)
        agree = _agreeing(own, [1.0] * len(own))
        divisor = (weights * agree).sum(axis=0)
        total = (own * weights * agree).sum(axis=0)
        results.append(base + total / np.where(divisor == 0, 1, divisor))
    return np.stack(results)


def _largest(sizes: Array, count: int) -> tuple[Any, Any]:
    """Return which are among the ``count`` largest, and which may be, as others that equal them."""
    none = np.zeros(sizes.shape, bool)
    if count <= 0:
        return none, none
    bound = np.sort(sizes.ravel())[::-1][count - 1]
    kept, at = sizes > bound, sizes == bound
    return (kept | at, none) if kept.sum() + at.sum() == count else (kept, at)


def _agreeing(changes: Array, weights: Sequence[float]) -> Any:
    """Return where each weighted change has the sign of their sum; that of a sum of 0 is plus."""
    factors = np.array(weights, np.longdouble).reshape(-1, *[1] * (changes.ndim - 1))
    products = changes * factors
    total = products.sum(axis=0)
    doubtful = np.abs(total) <= 1e-15 * np.abs(products).sum(axis=0)
    for place in zip(*np.nonzero(doubtful), strict=True):
        exact = sum(
            Fraction(*each[place].as_integer_ratio()) * Fraction(weight)
            for each, weight in zip(changes, weights, strict=True)
        )
        total[place] = (exact > 0) - (exact < 0)
    return np.sign(products) == np.where(total >= 0, 1, -1)


def _task(sparse: str | None, *, signs: bool, normalize: bool, rescale: bool) -> Method:
    """Return a method that sums changes, after some of their values are dropped."""

    def merge(base: Array | None, entries: Entries, shared: _Settings) -> Array:
        if not entries:
            return _one(base)
        weights = [own.number("weight") for _, own in entries]
        again = shared.flag("rescale", rescale)
        trimmed = [_SPARSE[sparse](x - base, own, again) for x, own in entries]
        several = [(False, True) if free.any() else (False,) for _, _, free in trimmed]
        results = []
        for choice in itertools.product(*several):
            changes = np.stack(
                [
                    np.where(kept | (free & chosen), change, 0)
                    for (change, kept, free), chosen in zip(trimmed, choice, strict=True)
                ]
            )
            column = np.array(weights, np.longdouble).reshape(-1, *[1] * base.ndim)
            agree = _agreeing(changes, weights) if signs else np.ones(changes.shape, bool)
            total = (changes * column * agree).sum(axis=0)
            divisor = (column * agree).sum(axis=0)
            if shared.flag("normalize", normalize):
                total /= np.where(divisor == 0 if signs else np.abs(divisor) < 1e-8, 1, divisor)
            results.append(base + np.longdouble(shared.number("lambda", 1)) * total)
        return np.stack(results)

    return merge


Trimmed = tuple[Array, Any, Any]
"""A change as it is where it stays; where it stays; and where either is right."""


def _all(change: Array) -> Trimmed:
    return change, np.ones(change.shape, bool), np.zeros(change.shape, bool)


def _nothing(change: Array) -> Trimmed:
    return change, np.zeros(change.shape, bool), np.zeros(change.shape, bool)


def _by_size(change: Array, own: _Settings, rescale: bool, gamma: float = 0.0) -> Trimmed:
    """Keep the largest changes, without the very largest."""
    density, count = own.number("density", 1), change.size
    if density >= 1:
        return _all(change)
    sizes = np.abs(change)
    wanted = int(density * count)
    if gamma:
        first = max(0, count - wanted - int(gamma * count))
    else:
        wanted = max(1, wanted) if density > 0 else 0
        first = count - wanted
    ordered = np.sort(sizes.ravel())[first : first + wanted]
    upper, upper_free = _largest(sizes, count - first)
    lower, lower_free = _largest(sizes, count - first - wanted)
    kept, free = upper & ~lower & ~lower_free, upper_free | lower_free
    if rescale and wanted:
        change = change * (sizes.sum() / ordered.sum())
    return change, kept, free


def _outliers(change: Array, own: _Settings, rescale: bool) -> Trimmed:
    return _by_size(change, own, rescale, own.number("gamma", 0.01))


def _random(change: Array, own: _Settings, rescale: bool) -> Trimmed:
    """Each value stays or not; those that stay are divided by the probability of it."""
    density = np.longdouble(own.number("density", 1))
    if density >= 1 or density <= 0:
        return _all(change) if density >= 1 else _nothing(change)
    kept = np.zeros(change.shape, bool)
    return (change / density if rescale else change), kept, ~kept


def _by_rank(change: Array, own: _Settings, rescale: bool) -> Trimmed:
    density, epsilon = own.number("density", 1), own.number("epsilon", 0.15)
    if density >= 1 or density <= 0:
        return _all(change) if density >= 1 else _nothing(change)
    sizes = np.abs(change if change.ndim > 1 else change[np.newaxis])
    lower = (sizes[:, :, np.newaxis] > sizes[:, np.newaxis, :]).sum(axis=-1)
    equal = (sizes[:, :, np.newaxis] == sizes[:, np.newaxis, :]).sum(axis=-1)
    rank = (lower + (equal - np.longdouble(1)) / 2) / max(sizes.shape[1] - 1, 1)
    chance = (np.longdouble(density) - epsilon + rank * 2 * epsilon).reshape(change.shape)
    kept = np.zeros(change.shape, bool)
    return (change / chance if rescale else change), kept, ~kept


_SPARSE: dict[str | None, Callable[[Array, _Settings, bool], Trimmed]] = {
    None: lambda change, own, rescale: _all(change),
    "size": _by_size,
    "outliers": _outliers,
    "random": _random,
    "rank": _by_rank,
}
_METHODS: dict[str, Method] = {
    "linear": _linear,
    "slerp": _slerp,
    "nuslerp": _nuslerp,
    "multislerp": _multislerp,
    "karcher": _karcher,
    "model_stock": _model_stock,
    "nearswap": _nearswap,
    "arcee_fusion": _arcee_fusion,
    "ram": _ram,
    "ramplus_tl": lambda base, entries, shared: _ram(base, entries, shared, plus=True),
    "sce": _sce,
    "passthrough": lambda base, entries, shared: _one(
        entries[0][0] * np.longdouble(entries[0][1].number("scale", 1))
    ),
    "task_arithmetic": _task(None, signs=False, normalize=False, rescale=False),
    "ties": _task("size", signs=True, normalize=True, rescale=False),
    "dare_linear": _task("random", signs=False, normalize=False, rescale=True),
    "dare_ties": _task("random", signs=True, normalize=False, rescale=True),
    "della": _task("rank", signs=True, normalize=True, rescale=True),
    "della_linear": _task("rank", signs=False, normalize=False, rescale=True),
    "breadcrumbs": _task("outliers", signs=False, normalize=False, rescale=False),
    "breadcrumbs_ties": _task("outliers", signs=True, normalize=False, rescale=False),
}


# Tokens -------------------------------------------------------------------------------------------


def _tokenizer(recipe: Mapping[str, Any]) -> dict[str, Any]:
    if recipe.get("tokenizer_source"):
        return {"source": recipe["tokenizer_source"]}
    return recipe.get("tokenizer") or {}


def _by_token(
    section: Mapping[str, Any], base: str | None, used: Sequence[str], models: Mapping[str, Model]
) -> tuple[dict[str, int], dict[str, Model]]:
    """Return the result's tokens, and the models with their rows at the tokens' numbers."""
    source = section.get("source") or "union"
    if source == "union":
        texts = list(dict.fromkeys(text for name in used for text in models[name].tokens))
    else:
        chosen = (base or used[0]) if source == "base" else source
        texts = sorted(models[chosen].tokens, key=models[chosen].tokens.__getitem__)
    told = section.get("tokens") or {}
    texts += [text for text in told if text not in texts]
    count, multiple = len(texts), section.get("pad_to_multiple_of") or 1
    rows = -(-count // multiple) * multiple
    moved = dict(models)
    for name in used:
        tensors = dict(models[name].tensors)
        for key in {EMBEDDING, OUTPUT} & tensors.keys():
            own = {each: models[each].tensors[key] for each in used}
            values = np.zeros((rows, own[name].shape[1]), np.longdouble)
            for number, text in enumerate(texts):
                have = [each for each in used if text in models[each].tokens]
                if name in have and not told.get(text, {}).get("force"):
                    values[number] = own[name][models[name].tokens[text]]
                elif text in told:
                    values[number] = _row_of(told[text]["source"], text, own, models)
                elif have:
                    givers = [base] if base in have else have
                    several = [own[each][models[each].tokens[text]] for each in givers]
                    values[number] = stored(sum(several) / len(several), models[name].dtype)
            if rows > count:
                values[count:] = stored(values[:count].mean(axis=0), models[name].dtype)
            tensors[key] = values
        moved[name] = models[name]._replace(tensors=tensors)
    return {text: number for number, text in enumerate(texts)}, moved


def stored(values: Array, dtype: str) -> Array:
    """Return values rounded to a dtype, as means of rows are before they are merged."""
    place, least = {"bfloat16": (8, -126), "float16": (11, -14), "float32": (24, -126)}[dtype]
    _, exponent = np.frexp(values)
    unit = np.ldexp(np.longdouble(1), np.maximum(exponent - 1, least) - (place - 1))
    return np.rint(values / unit) * unit


def _row_of(
    source: Any, text: str, own: Mapping[str, Array], models: Mapping[str, Model]
) -> Array | float:
    if isinstance(source, str):
        return own[source][models[source].tokens[text]]
    if source["kind"] == "zero":
        return 0.0
    model = source["model"]
    return own[model][source.get("token_id", models[model].tokens.get(source.get("token", "")))]


# Mixtures -----------------------------------------------------------------------------------------


def _mixture(recipe: Mapping[str, Any], models: Mapping[str, Model]) -> Expected:
    """Return a mixture of experts whose gates are sums of embeddings."""
    base = models[recipe["base_model"]]
    found = {name: _one(x) for name, x in base.tensors.items() if ".mlp." not in name}

    def embedded(prompts: Sequence[str]) -> Array:
        rows = [base.tokens[word] for prompt in prompts for word in prompt.split()]
        total = base.tensors[EMBEDDING][rows].sum(axis=0)
        return total / _norm(total)

    gates = []
    for expert in recipe["experts"]:
        gate = embedded(expert["positive_prompts"])
        if expert.get("negative_prompts"):
            gate = gate - embedded(expert["negative_prompts"])
        gates.append(gate / _norm(gate))
    for layer in range(base.layers):
        block = f"model.layers.{layer}.mlp"
        found[f"{block}.gate.weight"] = _one(np.stack(gates))
        for number, expert in enumerate(recipe["experts"]):
            own = models[expert["source_model"]].tensors
            for name, short in (("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")):
                key = f"{block}.experts.{number}.{short}.weight"
                found[key] = _one(own[f"{block}.{name}.weight"])
    return Expected(found, recipe.get("dtype") or base.dtype, None)
