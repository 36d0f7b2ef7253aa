"""Doors: other protocols than chat, as translations onto the gateway's own routes."""
