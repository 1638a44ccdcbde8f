"""The configuration: its schema, its defaults, and what Hydra needs to find it."""
