"""Layers that every family shares."""
