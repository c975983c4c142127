from pathlib import Path

from service.rpc.generate import PACKAGE, ROOT, generate


def code_in(root: Path) -> dict[str, str]:
    package = root / PACKAGE
    return {
        str(file.relative_to(package)): file.read_text()
        for file in package.rglob("*.py*")
        if file.suffix in (".py", ".pyi")
    }


def test_the_committed_code_is_current(tmp_path: Path) -> None:
    generate(tmp_path)
    assert code_in(tmp_path) == code_in(ROOT), "run `make proto` and commit what it writes"
