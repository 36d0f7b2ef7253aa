"""Wire formats: bodies in, bodies out. No server, no model."""
