"""Scores and their reports."""
