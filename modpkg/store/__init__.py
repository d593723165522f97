"""The store: all bytes on this machine, each tensor once."""
