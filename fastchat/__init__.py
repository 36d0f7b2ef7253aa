"""FastChat: serve, compare and train chat models."""

__version__ = "1.0.0"
