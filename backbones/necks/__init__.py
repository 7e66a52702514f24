"""Necks: what is made of a body's features."""
