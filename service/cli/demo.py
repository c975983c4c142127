"""`padrec demo`: a synthetic shop, a target trained on it, and the service, with nothing else needed."""
import typer
def demo() -> None:
    """x"""
