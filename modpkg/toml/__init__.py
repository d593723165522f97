"""TOML with positions: texts, and validated values whose errors name a line."""
