"""Writing lists with the target: the constraint, the batched engine, and the slow reference."""
