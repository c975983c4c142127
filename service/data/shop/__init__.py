"""The synthetic shop: its words, its shelves and its customers."""
