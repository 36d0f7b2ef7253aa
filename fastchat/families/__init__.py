"""Families: how a kind of model is recognised, loaded, prompted, stopped and described."""
