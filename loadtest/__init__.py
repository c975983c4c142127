"""Load tests: what a running service holds, and what it does beyond that."""
