import sys
from pathlib import Path

from loadtest.processes import free_ports, running


def test_ports_are_distinct() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert all(1_024 <= port < 65_536 for port in ports)


def test_a_process_ends_with_the_block_and_what_it_said_is_kept(tmp_path: Path) -> None:
    says = "import sys, time; print('here', file=sys.stderr, flush=True); time.sleep(60)"
    with running([sys.executable, "-c", says], {}, tmp_path / "its.log") as process:
        while not (tmp_path / "its.log").read_text():
            assert process.poll() is None
    assert process.returncode is not None
    assert (tmp_path / "its.log").read_text() == "here\n"
