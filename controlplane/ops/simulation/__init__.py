"""A whole fleet over virtual time: production decisions, everything around them simulated.

Nothing here reads a row, a real clock or the network."""
