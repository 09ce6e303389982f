"""Restoring videos with a trained network."""
