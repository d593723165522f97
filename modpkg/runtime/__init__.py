"""Running: installed models as torch modules, and their tasks from text to result."""
