"""The server of a registry: publishing, people and rights, review, pages. An extra."""
