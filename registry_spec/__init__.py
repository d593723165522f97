"""The registry spec: the formats as prose, as JSON Schemas and as vectors, and a checker."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
SCHEMAS = HERE / "schemas"
VECTORS = HERE / "vectors"
