"""A model as an artifact of an OCI registry, as the CNCF's model-spec (ModelPack) describes it.

https://github.com/modelpack/model-spec: ``docs/spec.md``, ``specs-go/v1/mediatype.go`` and
``schema/config-schema.json``. Each file of the model is one layer, as it is, under its path.
Nothing in an artifact depends on when, where or by whom it was made: equal models are equal
artifacts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from modpkg.core import bounds
from modpkg.core.decoding import decoding_reason
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.errors import ConversionError, InvalidValue
from modpkg.core.oci_address import OciAddress
from modpkg.core.records import DigestText, Size, canonical_json
from modpkg.core.release_path import safe_path
from modpkg.registry.oci_client import IMAGE_INDEX, IMAGE_MANIFEST
from modpkg.release.content import twin_problem

MODEL_MANIFEST = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
_LAYER = "application/vnd.cncf.model.{}.v1.raw"
_PATH = "org.cncf.model.filepath"
_TITLE = "org.opencontainers.image.title"
"""Where ORAS and CRI-O look for a file's path."""
_DOCUMENTS = (".md", ".markdown", ".rst", ".txt", ".bib", ".cff")
_PAPERS = ("license", "licence", "notice", "copying", "readme", "authors", "citation")
_WEIGHTS = (".safetensors", ".gguf", ".npy")
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))
_PRECISIONS = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F64": "fp64"}

ASSEMBLY = "assembly"
"""The folder of an artifact with the project that installs the model again."""
WEIGHTS_ENDING = ".safetensors"

TASK = "modpkg.task"
"""The annotation of a manifest with the model's task, as JSON of `modpkg.manifest.normal`."""

Text = Annotated[str, Meta(max_length=4096)]
Annotation = Annotated[str, Meta(max_length=1 << 16)]


class OciDescriptor(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What names a blob: its type, digest and length."""

    media_type: Text
    digest: DigestText
    size: Size
    annotations: dict[str, Annotation] | None = None


class OciManifest(Struct, frozen=True, kw_only=True, rename="camel"):
    """An image manifest of OCI, v1.1."""

    schema_version: int
    media_type: Text = IMAGE_MANIFEST
    artifact_type: Text = ""
    config: OciDescriptor
    layers: list[OciDescriptor]
    annotations: dict[str, Annotation] | None = None


class ModelDescriptor(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an artifact's config says of a model, of which all may be missing."""

    name: Text | None = None
    version: Text | None = None
    description: Text | None = None
    licenses: list[Text] | None = None


class ModelConfig(Struct, frozen=True, kw_only=True):
    """The config of an artifact, as far as it is read here."""

    descriptor: ModelDescriptor = ModelDescriptor()


class OciLayer(Struct, frozen=True):
    """A file of an artifact."""

    path: str
    digest: Digest
    size: int


class ReadArtifact(Struct, frozen=True):
    """What a manifest says that an artifact has."""

    config: OciDescriptor
    layers: tuple[OciLayer, ...]
    left: tuple[str, ...]
    """Files that are code, which no release has, by their paths."""
    task: dict[str, Any] | None
    """The model's task, not validated; None where none is named."""


def whole_name(path: str, tensor: str) -> str:
    """Return the name in the whole model of a tensor in a file.

    Those of modules after the transformer begin with their folder.

    >>> whole_name("model.safetensors", "norm.weight"), whole_name("2_Dense/model.safetensors", "w")
    ('norm.weight', '2_Dense/w')
    """
    part = path.rpartition("/")[0]
    return f"{part}/{tensor}" if part else tensor


def model_config(
    descriptor: ModelDescriptor,
    layers: Iterable[OciLayer],
    *,
    family: str | None,
    dtypes: Collection[str],
    parameters: int,
) -> bytes:
    """Return the config of an artifact.

    Args:
        descriptor: What it says of the model.
        layers: The files.
        family: The ``model_type`` of the model's config.json.
        dtypes: The dtypes of its tensors, as safetensors spells them.
        parameters: How many numbers they have in all.
    """
    precision = _PRECISIONS.get(next(iter(dtypes), "")) if len(dtypes) == 1 else "mixed"
    config = {
        "format": "safetensors",
        "paramSize": _param_size(parameters),
        "precision": precision,
    }
    kind = {} if family is None else {"family": family}
    return canonical_json(
        {
            "descriptor": {**msgspec.to_builtins(descriptor), **kind},
            "config": {key: value for key, value in config.items() if value is not None},
            "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
        }
    )


def _param_size(count: int) -> str:
    """Return a count of parameters with at most one digit after the point.

    >>> _param_size(134_515_008), _param_size(7_000_000_000), _param_size(12)
    ('134.5M', '7B', '0.1K')
    """
    size, unit = next((pair for pair in _UNITS if count >= pair[0]), _UNITS[-1])
    tenths = max((count * 10 + size // 2) // size, 1)
    return f"{tenths // 10}.{tenths % 10}{unit}".replace(".0", "")


def model_manifest(
    config: bytes,
    layers: Iterable[OciLayer],
    descriptor: ModelDescriptor,
    task: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the manifest of an artifact; ``task`` is the model's, in its normal form."""
    said: Mapping[str, Any] = {
        "org.opencontainers.image.title": descriptor.name,
        "org.opencontainers.image.version": descriptor.version,
        "org.opencontainers.image.licenses": " AND ".join(descriptor.licenses or ()) or None,
        TASK: None if task is None else canonical_json(task).decode(),
    }
    manifest = OciManifest(
        schema_version=2,
        artifact_type=MODEL_MANIFEST,
        config=OciDescriptor(
            media_type=MODEL_CONFIG, digest=digest_bytes(config), size=len(config)
        ),
        layers=[
            OciDescriptor(
                media_type=_LAYER.format(_kind_of(layer.path)),
                digest=layer.digest,
                size=layer.size,
                annotations={_PATH: layer.path, _TITLE: layer.path},
            )
            for layer in layers
        ],
        annotations={key: value for key, value in said.items() if value is not None},
    )
    return canonical_json(msgspec.to_builtins(manifest))


def _kind_of(path: str) -> str:
    name = path.rpartition("/")[2].lower()
    if name.endswith(_WEIGHTS):
        return "weight"
    paper = name.startswith(_PAPERS) and "." not in name
    return "doc" if paper or (name.endswith(_DOCUMENTS) and name != "merges.txt") else _SETTINGS


_SETTINGS = "weight.config"
_TAKEN = {_LAYER.format(kind) for kind in ("weight", _SETTINGS, "doc", "dataset")}
_CODE = "application/vnd.cncf.model.code."
_PACKED = "application/vnd.cncf.model."


def read_artifact(data: bytes, stated: str, address: OciAddress) -> ReadArtifact:
    """Return what a manifest says that a model's artifact has.

    Args:
        data: The manifest.
        stated: The type that the registry gives it.
        address: For errors.

    Raises:
        ConversionError: It is not a model's, or has files that cannot be taken.
    """
    try:
        kind = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("mediaType")
        said = stated if kind is None else msgspec.json.decode(kind, type=str)
        if said in (IMAGE_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"):
            reason = "it is an index of several images; name one of them by its digest"
            raise _refusal(address, reason)
        manifest = msgspec.json.decode(data, type=OciManifest)
        told_task = (manifest.annotations or {}).get(TASK)
        task = None if told_task is None else msgspec.json.decode(told_task, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = f"its manifest is malformed: {decoding_reason(error)}"
        raise _refusal(address, reason) from None
    if manifest.artifact_type != MODEL_MANIFEST and manifest.config.media_type != MODEL_CONFIG:
        kind_of = manifest.artifact_type or manifest.config.media_type
        reason = f"it is no model of the CNCF's model-spec (ModelPack), but {kind_of[:200]}"
        raise _refusal(address, reason)
    if len(manifest.layers) > bounds.OCI_LAYERS:
        raise _refusal(address, f"it has over {bounds.OCI_LAYERS} layers")
    layers, left = [], []
    for layer in manifest.layers:
        path = _path_of(layer, address)
        if layer.media_type.startswith(_CODE):
            left.append(path)
        elif layer.media_type in _TAKEN:
            layers.append(OciLayer(path, Digest(layer.digest), layer.size))
        elif layer.media_type.startswith(_PACKED):
            reason = (
                f"{path} is packed ({layer.media_type[:200]}), and only files as they are ('.raw') "
                "are taken; let its author build it so"
            )
            raise _refusal(address, reason)
        else:
            raise _refusal(address, f"{path} is of a kind unknown here ({layer.media_type[:200]})")
    paths = [layer.path for layer in layers]
    for before, path in pairwise(sorted(paths)):
        if before == path:
            raise _refusal(address, f"it has {path} twice")
    if (problem := twin_problem(paths)) is not None:
        raise _refusal(address, problem)
    return ReadArtifact(manifest.config, tuple(layers), tuple(left), task)


def _path_of(layer: OciDescriptor, address: OciAddress) -> str:
    """Return a file's path, checked to stay inside a folder."""
    said = layer.annotations or {}
    path = said.get(_PATH) or said.get(_TITLE)
    if path is None:
        reason = f"a layer ({layer.digest}) has no path, which {_PATH} has to say"
        raise _refusal(address, reason)
    try:
        return safe_path(path)
    except InvalidValue as error:
        raise _refusal(address, str(error).rstrip(".")) from None


def read_model_config(data: bytes) -> ModelConfig:
    """Return the config of an artifact; an empty one, if it is malformed, does no harm."""
    try:
        return msgspec.json.decode(data, type=ModelConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ModelConfig()


def _refusal(address: OciAddress, reason: str) -> ConversionError:
    return ConversionError("M801", path=address, reason=reason)
