"""Data sets of blurry and sharp videos, and what they are read from."""
