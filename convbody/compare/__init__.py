"""Proving a port: two models, the same weights and batch, and the first place where they part."""
