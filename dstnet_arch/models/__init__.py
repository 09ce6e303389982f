"""BasicSR models: what trains, validates and tests the networks."""

# Importing BasicSR makes the plugin register the model: to be done before a module here is half imported itself.
import basicsr  # noqa: F401
