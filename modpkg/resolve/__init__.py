"""The resolver: which versions fit together, and why."""
