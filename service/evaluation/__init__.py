"""Quality of lists, and benchmarks."""
