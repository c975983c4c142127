"""Semantic IDs and the target, learned from a dataset."""
