"""Metrics, scoring protocols and result tables."""
