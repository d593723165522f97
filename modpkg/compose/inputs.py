"""What composing works on."""

from modpkg.installed import InstalledModel, InstalledModule, TensorRef

__all__ = ["InstalledModel", "InstalledModule", "TensorRef"]
