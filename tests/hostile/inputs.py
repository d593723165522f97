"""All hostile inputs."""

from __future__ import annotations

from tests.hostile.case import Input
from tests.hostile.files import FILES
from tests.hostile.modules import MODULES
from tests.hostile.registries import REGISTRIES

INPUTS: list[Input] = [*REGISTRIES, *MODULES, *FILES]
KINDS = sorted({given.kind for given in INPUTS})
