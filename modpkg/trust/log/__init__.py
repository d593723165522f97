"""The transparency log: what a registry has said, in an order that anybody can check."""
