"""REST: who is told of what, and what was told."""
