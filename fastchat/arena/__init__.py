"""Comparing models: what people voted, what it says of the models, how sure that is."""
