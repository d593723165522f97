"""In and out: what other tools have becomes a module, and an installed model what they open."""
