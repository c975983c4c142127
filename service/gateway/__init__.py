"""The process that speaks items: the use case and its translators. Never imports torch."""
