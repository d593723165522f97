"""Running installed models: as torch modules, live with switchable adapters, and by task."""
