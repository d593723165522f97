"""The registry spec."""
