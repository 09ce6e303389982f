"""Exact frame-by-frame restoration of videos of any length."""
