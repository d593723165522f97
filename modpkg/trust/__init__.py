"""Who released a module: keys, signatures, and who may sign for a name."""
