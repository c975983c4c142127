"""Padrec: a language model writes each user's next items as one list, as a service."""
