"""Recipes of mergekit that merge: whole models, or layers of several, slice by slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modpkg.core.errors import ConversionError
from modpkg.interop.mergekit_methods import FROM_BASE, MethodRecipe

Slice = tuple[dict[str, Any], list[dict[str, Any]], list[list[int]]]
"""A slice, its sources, and the layers of each."""


_ALONE = frozenset(
    {"linear", "karcher", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della"}
    | {"della_linear", "breadcrumbs", "breadcrumbs_ties", "multislerp", "sce", "ram", "ramplus_tl"}
)
"""Methods that mergekit runs with one model too."""


class MergedRecipe(MethodRecipe):
    """A recipe whose method merges models."""

    def _merge(self) -> dict[str, Any]:
        """Return the composition of a recipe that merges whole models, or layers of them."""
        if models := self._list(self._tower.get("models"), "models"):
            return self._whole([self._entry(item) for item in models], {}, None)
        slices = [self._slice(item) for item in self._list(self._tower.get("slices"), "slices")]
        if len(slices) == 1:
            piece, sources, extents = slices[0]
            known = [self._layers(source["model"]) for source in sources]
            if all(extent == [0, extents[0][1]] for extent in extents) and all(
                count in (None, extents[0][1]) for count in known
            ):
                return self._whole(sources, piece, extents[0])
        return self._layers_of(slices)

    def _whole(
        self,
        entries: Sequence[dict[str, Any]],
        piece: Mapping[str, Any],
        extent: list[int] | None,
    ) -> dict[str, Any]:
        """Return the merge of whole models; ``extent`` are their layers where a slice says so."""
        names = self._names_of(entries)
        base, written = self._base(piece, names)
        if extent is not None and written and base not in names and self._method.reads_base:
            raise self._without_base()
        # To mergekit the base_model is one more of the models, if they are not in slices.
        counted = base in names or (extent is None and not self._method.needs_base)
        whole = {
            "base": base,
            "method": self._method.name,
            **self._merged(entries, names, base, written, piece, counted=counted),
        }
        steps = whole.pop("steps")
        if not steps:
            whole = self._alone(base, whole["parameters"])
        if extent is not None and any(self._layers(each["model"]) is None for each in entries):
            # A fine-tune with more layers than these is refused when it is composed.
            whole["layers"] = [{"module": base, "range": extent}]
            self._note(
                f"it merges layers 0 to {extent[1]}, which have to be all that its models have"
            )
        return {**whole, "steps": steps}

    def _alone(self, base: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the merge of one model with nothing: that model, or a multiple of it."""
        self._check_alone(base, parameters)
        if self._written == "linear" and parameters.get("normalize") is False:
            scale = {"scale": parameters["base_weight"]}
            return {"base": base, "method": "passthrough", "parameters": scale}
        return {"base": base}

    def _check_alone(self, base: str, parameters: Mapping[str, Any]) -> None:
        """Refuse a merge of one model with nothing that mergekit refuses."""
        changes = self._written == "multislerp" and parameters.get(FROM_BASE, True)
        if self._written not in _ALONE or changes:
            raise self._refuse(f"{self._written} needs another model than {base}")

    def _names_of(self, entries: Sequence[dict[str, Any]]) -> list[str]:
        names = [self._model(entry["model"]) for entry in entries]
        if len(set(names)) != len(names):
            raise self._refuse("it names a model twice")
        return names

    def _merged(
        self,
        entries: Sequence[dict[str, Any]],
        names: Sequence[str],
        base: str,
        written: bool,
        piece: Mapping[str, Any],
        *,
        counted: bool,
    ) -> dict[str, Any]:
        """Return the method's parameters and the steps that merge some models into one of them.

        Args:
            written: Whether the recipe names the base.
            piece: The slice, if it is one.
            counted: Whether the base is one of the merged models.
        """
        method, common = self._method, self._common()
        within = [*([self._scope(piece)] if piece else []), *common]
        parameters = self._parameters(method.shared, within)
        for missing in self._required & {*method.shared.values()} - parameters.keys():
            raise self._refuse(f"{self._written} needs the parameter {missing!r} of the merge")
        if method.name == "nuslerp":
            parameters.update(self._vectors(within))
        if not written:
            parameters.update(method.without_base)
        scopes = {
            name: [self._scope(entry), *within] for name, entry in zip(names, entries, strict=True)
        }
        if method.name == "linear" or (not written and method.weighted):
            parameters["base_weight"] = (
                self._weight(scopes.get(base, within), base) if counted else 0.0
            )
        elif method.name == "karcher" and not counted:
            parameters["with_base"] = False
        steps = []
        for name in names:
            if name == base:
                continue
            step: dict[str, Any] = {"op": "dense", "module": name}
            if method.weighted:
                step["scale"] = self._weight(scopes[name], name)
            each = self._parameters(method.each, scopes[name])
            steps.append({**step, "parameters": each} if each else step)
        for entry in entries:
            self._check(self._scope(entry), of_model=True)
        for scope in within:
            self._check(scope)
        return {"parameters": parameters, "steps": steps}

    def _layers_of(self, slices: Sequence[Slice]) -> dict[str, Any]:
        """Return the merge of layers, slice by slice."""
        runs, paths = [], []
        for piece, sources, extents in slices:
            if len({stop - first for first, stop in extents}) > 1:
                raise self._refuse("the sources of a slice have different numbers of layers")
            names = self._names_of(sources)
            given = piece.get("base_model") or self._data.get("base_model")
            base, written = names[0], False
            if given is not None and self._reference(given) in [
                self._reference(source["model"]) for source in sources
            ]:
                base, written = self._model(given), True
            elif self._method.needs_base or (given is not None and self._method.reads_base):
                raise self._without_base()
            merged = self._merged(sources, names, base, written, piece, counted=True)
            self._check_weight(merged["parameters"].get("base_weight"))
            at = names.index(base)
            run: dict[str, Any] = {"module": base, "range": extents[at]}
            ranges = dict(zip(names, extents, strict=True))
            for step in merged["steps"]:
                if ranges[step["module"]] != extents[at]:
                    step["range"] = ranges[step["module"]]
            if merged["steps"]:
                run |= {key: value for key, value in merged.items() if value}
            else:
                self._check_alone(base, merged["parameters"])
                if merged["parameters"].get("normalize") is False and self._written == "linear":
                    raise self._refuse("a slice of it has one source, which it only multiplies")
            runs.append(run)
            paths.append(self._path_of(sources[at]["model"])[0])
        base = runs[0]["module"]
        if self._data.get("base_model") is not None:
            base = self._model(self._data["base_model"])
        for number, before in ((0, True), (-1, False)):
            run, path = runs[number], paths[number]
            if run["module"] == base and "steps" not in run:
                continue
            names, known = self._outside_layers(path, before=before)
            run["tensors"] = [*run.get("tensors", []), *names]
            if not known:
                self._assumed(path, names, before=before)
        if len(slices[0][1]) < len(slices[-1][1]):
            self._note(
                f"mergekit 0.1.5 merges only the first {len(slices[0][1])} models of the last "
                "slice in tensors after the layers, as many as the first slice has; modpkg all"
            )
        return {"base": base, "method": self._method.name, "layers": runs}

    def _without_base(self) -> ConversionError:
        needs = "needs a" if self._method.needs_base else "has a"
        return self._refuse(
            f"{self._written} {needs} base_model, and it has to be among the sources of each slice"
        )

    def _check_weight(self, weight: Any) -> None:
        """Refuse filters that name a layer of the base: they would be about the result's."""
        for item in weight if isinstance(weight, list) else []:
            if isinstance(item, dict) and any(c.isdigit() for c in item.get("filter") or ""):
                raise self._refuse(
                    f"the weight of a slice's base has the filter {item['filter']!r}, with the "
                    "number of a layer; that is supported only for other models"
                )

    def _base(self, piece: Mapping[str, Any], names: Sequence[str]) -> tuple[str, bool]:
        """Return the base of the merge, and whether the recipe names it; else it is the first."""
        own, common = piece.get("base_model"), self._data.get("base_model")
        if own is not None:
            if common is not None and self._path_of(common) != self._path_of(own):
                self._note(
                    f"the slice's own base_model, {self._path_of(own)[0]}, gives config and "
                    f"tokenizer too; mergekit takes these from {self._path_of(common)[0]}"
                )
            return self._model(own), True
        if common is not None:
            return self._model(common), True
        if self._method.needs_base:
            raise self._refuse(f"{self._written} needs a base_model")
        return names[0], False
