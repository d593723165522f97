"""The version of this modpkg, which the build, the lock and the command line state."""

__version__ = "0.1.0"
