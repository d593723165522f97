"""``diff``: how far two sets of weights are apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from modpkg.cli.module_names import names_or_files
from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import faint, good, print_json, say, strong, table, tell
from modpkg.core.files import shown, write_atomically
from modpkg.environment.workspace import Workspace

if TYPE_CHECKING:
    from modpkg.community.diff.tensors import PartDiff, TensorDiff, WeightsDiff


class DifferingTensor(Struct, frozen=True, kw_only=True):
    """A tensor of A, of B or of both."""

    name: str
    status: str
    """``same``, ``changed``, ``reshaped``, ``added`` or ``removed``."""
    dtype: str
    shape: tuple[int, ...]
    dtype_before: str | None
    """A's; null unless it differs. The same for the shape."""
    shape_before: tuple[int, ...] | None
    elements: int
    changed: int
    """Elements with other bits, or, if the dtypes differ, with other values."""
    norm: float | None
    """Euclidean norm of A's tensor. Here and below, null stands for infinity."""
    distance: float | None
    """Norm of B - A."""
    largest: float | None
    """The largest absolute value in B - A."""
    relative: float | None
    """``distance / norm``."""


class DiffDocument(Struct, frozen=True, kw_only=True):
    """How far two sets of weights are apart."""

    a: str
    b: str
    elements: int
    changed: int
    """Elements that differ."""
    distance: float | None
    """Of the changed tensors, like ``relative``; null stands for infinity."""
    relative: float | None
    tensors: list[DifferingTensor]


@click.command("diff")
@click.argument("before", metavar="A", shell_complete=names_or_files)
@click.argument("after", metavar="B", shell_complete=names_or_files)
@click.option("--all", "every", is_flag=True, help="List every tensor that differs.")
@click.option(
    "--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw the difference by layer."
)
@project_options
@with_workspace
def diff_command(
    workspace: Workspace,
    before: str,
    after: str,
    every: bool,
    svg: Path | None,
    as_json: bool,
) -> None:
    """Show how far the weights of B are from those of A, tensor by tensor.

    A and B are each a release (NAME==VERSION), an installed model (NAME, or NAME@3 for how
    generation 3 has it), or a folder with *.safetensors. A release that has a recipe is composed.

    Change is |B - A| / |A|, in Euclidean norms. Values are the share of elements whose bits differ.
    """
    from modpkg.community.diff.svg import diff_svg
    from modpkg.community.diff.tensors import by_part, diff_views
    from modpkg.community.modules.reference import find_weights

    one, two = (find_weights(text, workspace, is_taken=False) for text in (before, after))
    diff = diff_views(one, two, workspace.progress)
    if svg is not None:
        write_atomically(svg, diff_svg(diff, f"{one.label} to {two.label}").encode())
    if as_json:
        print_json(_document(one.label, two.label, diff))
        return
    _summary(one.label, two.label, diff)
    if every:
        _tensors([tensor for tensor in diff.tensors if tensor.status != "same"])
    else:
        _parts([row for row in by_part(diff) if row.touched])
    if svg is not None:
        tell(f"\n{good('Wrote')} {shown(svg)}.")


def _summary(one: str, two: str, diff: WeightsDiff) -> None:
    say(f"{strong(one)} to {strong(two)}")
    counts = [
        f"{count} {status}"
        for status in ("same", "changed", "reshaped", "added", "removed")
        if (count := diff.count(status))
    ]
    say(f"  tensors  {', '.join(counts) or 'none on either side'}")
    if diff.changed:
        share = diff.changed / diff.elements
        say(f"  values   {diff.changed} of {diff.elements} changed ({_percent(share)})")
        say(f"  change   {diff.relative:.3g} of the changed tensors' norm")


def _parts(rows: list[PartDiff]) -> None:
    if not rows:
        return
    say()
    table(
        [
            [
                row.part,
                f"{row.touched} of {row.tensors}",
                _percent(row.changed / row.elements) if row.elements else "-",
                f"{row.relative:.3g}",
            ]
            for row in rows
        ],
        ["Part", "Tensors", "Values", "Change"],
    )
    say(faint("\nBy tensor: --all. As a picture by layer: --svg FILE."))


def _tensors(tensors: list[TensorDiff]) -> None:
    if not tensors:
        return
    say()
    rows = []
    for tensor in tensors:
        measured = tensor.status == "changed"
        kind = f"{tensor.dtype} {list(tensor.shape)}"
        if tensor.shape_before is not None:
            kind = f"{list(tensor.shape_before)} -> {kind}"
        elif tensor.dtype_before is not None:
            kind = f"{tensor.dtype_before} -> {kind}"
        rows.append(
            [
                tensor.name,
                tensor.status,
                kind,
                _percent(tensor.changed / tensor.elements) if measured else "-",
                f"{tensor.relative:.3g}" if measured else "-",
                f"{tensor.largest:.3g}" if measured else "-",
            ]
        )
    table(rows, ["Tensor", "Status", "Type", "Values", "Change", "Largest"])


def _percent(share: float) -> str:
    """Return a share for people; nothing that differs is shown as nothing, or as all.

    >>> _percent(0.0), _percent(0.00001), _percent(0.99999), _percent(1.0)
    ('0 %', '<0.1 %', '>99.9 %', '100 %')
    """
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    if share < 0.001:
        return "<0.1 %"
    return ">99.9 %" if share > 0.999 else f"{share * 100:.1f} %"


def _document(one: str, two: str, diff: WeightsDiff) -> DiffDocument:
    def finite(value: float) -> float | None:
        return value if value < float("inf") else None

    return DiffDocument(
        a=one,
        b=two,
        elements=diff.elements,
        changed=diff.changed,
        distance=finite(diff.distance),
        relative=finite(diff.relative),
        tensors=[
            DifferingTensor(
                name=tensor.name,
                status=tensor.status,
                dtype=tensor.dtype,
                shape=tensor.shape,
                dtype_before=tensor.dtype_before,
                shape_before=tensor.shape_before,
                elements=tensor.elements,
                changed=tensor.changed,
                norm=finite(tensor.norm),
                distance=finite(tensor.distance),
                largest=finite(tensor.largest),
                relative=finite(tensor.relative),
            )
            for tensor in diff.tensors
        ],
    )
