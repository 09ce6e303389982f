"""Data sets of blurry and sharp videos, and the formats they are read from."""
