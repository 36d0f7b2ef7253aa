"""Engines: request in, chunks out. Heavy libraries are imported inside functions."""
