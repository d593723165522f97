"""A model's weights compared with its architecture, quantised or not, without loading it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path

from msgspec import Struct

from modpkg.adapters.quantised import Quantised, quantised
from modpkg.core.digests import digest_file, file_chunks
from modpkg.core.errors import ReleaseError
from modpkg.core.extras import NO_TORCH, has_torch
from modpkg.core.filenames import CONFIG, MODULES
from modpkg.core.installed import TensorRef
from modpkg.core.jsonfile import read_json
from modpkg.core.names import listed
from modpkg.core.tensors import DTypeShape, type_of, types_of
from modpkg.interop.full_precision import FullPrecision, full_precision, refs_of
from modpkg.manifest.schema import Manifest
from modpkg.release.content import collect
from modpkg.runtime.architecture import CONFIGS, PLUGINS
from modpkg.runtime.architecture_report import LoadingReport, check_complete
from modpkg.runtime.dense import check_weights
from modpkg.runtime.sentence_modules import WITH_WEIGHTS, modules_of, split_tensors
from modpkg.store.remembered import remembered

_REPORT = "architecture 1"
"""What is remembered; the number is raised when the report of the same model would differ."""
_OTHER_FORM = "its tensors are not those of its architecture in full precision"
_NO_CODES = "its tensors are in full precision; take quantization_config out of its config.json"


class ArchitectureFit(Struct, frozen=True):
    """What transformers would report, and how the weights are stored."""

    report: LoadingReport | None
    """None where they could not be compared."""
    reason: str
    """Why they could not."""
    stored: Quantised | None
    """How they are quantised."""
    full: FullPrecision | None
    """What they become in full precision, where that is exact."""


def compare(name: str, folder: Path, refs: Mapping[str, TensorRef]) -> ArchitectureFit:
    """Compare tensors with the configs in ``folder``; quantised ones by what they stand for.

    Raises:
        ReleaseError: A parameter has no tensor of its shape.
        RunError: The config is invalid or names custom code, or the tensors cannot be converted.
    """
    config = read_json(folder / CONFIG)
    stored, types, full = quantised(refs, config), types_of(refs), None
    if stored is not None and stored.tensor:
        try:
            full = full_precision(config, refs)
        except ValueError as error:
            return ArchitectureFit(None, str(error), stored, None)
        types = full.types()
    report, reason = _report_or_reason(name, folder, types)
    if stored is not None and not stored.tensor:
        if report is not None and (report.missing or report.unexpected or report.mismatched):
            return ArchitectureFit(None, _OTHER_FORM, stored, None)
        reason = _NO_CODES
    if report is not None:
        check_complete(name, report)
        _check_tied(name, report, refs)
    return ArchitectureFit(report, reason, stored, full)


class _NotCompared(Exception):
    """There is no report to remember."""

    def __init__(self, reason: str, report: LoadingReport | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.report = report


def _report_or_reason(
    name: str, folder: Path, types: Mapping[str, DTypeShape]
) -> tuple[LoadingReport | None, str]:
    """Return transformers' report, which is remembered: what it depends on is the key.

    Importing an architecture takes longer than to write a model of gigabytes.
    """
    if not has_torch():
        return None, NO_TORCH
    read = [file for file in (*CONFIGS, MODULES) if (folder / file).is_file()]
    inputs = [
        _REPORT,
        {file: digest_file(folder / file) for file in read},
        dict(sorted(types.items())),
    ]

    def compute() -> LoadingReport:
        from modpkg.runtime.loading_report import report_or_reason

        report, reason = report_or_reason(name, folder, types)
        if report is None:
            raise _NotCompared(reason)
        if any(entry_points(group=PLUGINS, name=report.architecture)):
            raise _NotCompared("", report)  # of an installed package, whose version is not known
        return report

    try:
        return remembered(inputs, LoadingReport, compute), ""
    except _NotCompared as error:
        return error.report, error.reason


def _check_tied(name: str, report: LoadingReport, refs: Mapping[str, TensorRef]) -> None:
    """Check that tensors that the config ties are equal: as one parameter, one would be lost.

    Raises:
        ReleaseError: Two differ.
    """
    for one, other in report.tied:
        if one not in refs or other not in refs:
            continue
        first, second = refs[one], refs[other]
        if type_of(first) != type_of(second) or any(
            left != right for left, right in zip(_chunks(first), _chunks(second), strict=True)
        ):
            raise ReleaseError(
                "M216",
                what=name,
                reason=f"config.json makes {one!r} and {other!r} one, but they differ",
                remedy='write "tie_word_embeddings": false into config.json if both are meant, or '
                "take the other away",
            )


def _chunks(ref: TensorRef) -> Iterator[bytes]:
    return file_chunks(Path(ref.file), ref.offset, ref.length)


def check_after_transformer(name: str, folder: Path, files: Collection[str], configs: Path) -> None:
    """Check the shapes of the weights of modules of sentence-transformers after the transformer.

    Args:
        name: The base's name, for errors.
        folder: The folder.
        files: The files of weights in it, by their path.
        configs: The folder with its configs.

    Raises:
        RunError: One has another shape than its config says.
        RecordError, PackError: A config or a file of weights is damaged.
    """
    for kind, part in modules_of(name, configs):
        if kind in WITH_WEIGHTS:
            own = [file for file in files if file.rpartition("/")[0] == part]
            config = read_json(configs / part / CONFIG)
            check_weights(name, part, kind, config, refs_of(folder, own))


def check_project(manifest: Manifest) -> str | None:
    """Check that the tensors of a base's project are those of its architecture.

    Return why they could not be compared; None if they were, or have no architecture.

    Raises:
        ReleaseError: A parameter has no tensor, or a tensor no parameter.
        RunError: The config is invalid or names custom code, or the tensors cannot be converted.
    """
    content, folder, module = collect(manifest), manifest.folder, manifest.module
    if module is None or module.kind not in ("base", "model") or not content.weights:
        return None
    if CONFIG not in content.files:
        return None
    apart = split_tensors(module.name, folder, dict.fromkeys(content.weights, ""))[1]
    own = [file for file in content.weights if file.rpartition("/")[0] not in apart]
    what = f"{module.name} {module.version}"
    check_after_transformer(what, folder, content.weights, folder)
    comparison = compare(what, folder, refs_of(folder, own))
    if comparison.report is None:
        return comparison.reason
    if comparison.report.unexpected:
        raise ReleaseError(
            "M216",
            what=what,
            reason=f"{comparison.report.architecture} does not have "
            f"{listed(comparison.report.unexpected)}",
            remedy="name the right architecture in config.json, or remove them ('modpkg import hf' "
            "leaves them out)",
        )
    return None
