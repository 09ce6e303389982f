"""BasicSR models."""
