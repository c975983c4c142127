"""Datasets: importers, the synthetic shop, and the format both write."""
