"""What changed between two editions of a module, subject by subject, as facts."""
