"""BasicSR models: what trains, validates and tests the networks."""
