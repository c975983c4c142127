"""The `padrec` command."""


def main() -> None:
    """Entry point."""
