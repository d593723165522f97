"""Servers of other people, and one of ours, that hold registries: started for tests on loopback."""
