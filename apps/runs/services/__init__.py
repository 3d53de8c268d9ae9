"""The verbs: launch, move, advance, and what stands on them."""
