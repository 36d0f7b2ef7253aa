"""Conversations as data: reading, cleaning and shaping what models learn from."""
