"""Transfer: what is missing on this machine, and fetching it."""
