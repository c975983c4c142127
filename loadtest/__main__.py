"""`python -m loadtest`: a service, load on it, and the report; or a report alone, of a recording."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from loadtest.profile import DEFAULT, Profile, load_profile
from loadtest.recording import Recording
from loadtest.report import write_reports
from loadtest.run import GENERATOR, RUN_FILE, Run, Target, command_line
from loadtest.serving import build_demo, free_port, serving
from loadtest.shapes import check_shape
from service.cli.display import say
from service.cli.reporting import print_rows
from service.errors import PadrecError

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_PACKAGES = ("padrec", "locust", "gevent", "grpcio", "torch")
_STOP_SECONDS = 5
_START_SECONDS = 60
_SHOWN = ("stage", "calls_due", "lists", "goodput", "refused", "late", "failed_lists", "p50_ms", "p99_ms")


def loadtest(
    shape: Annotated[str, typer.Option(help="ramp, step, spike or soak.")] = "ramp",
    profile: Annotated[Path, typer.Option(help="TOML; LOADTEST_* in the environment wins.")] = DEFAULT,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("build/loadtest"),
    bundle: Annotated[Path | None, typer.Option(help="To be served; default: that of 'padrec demo'.")] = None,
    demo: Annotated[Path, typer.Option(help="Where the demo keeps its bundle.")] = Path(".demo"),
    url: Annotated[str | None, typer.Option(help="A service that runs already; none is started.")] = None,
    grpc: Annotated[str | None, typer.Option(help="host:port of its gRPC; default: REST alone.")] = None,
    worker_metrics: Annotated[str | None, typer.Option(help="URL of its worker's /metrics.")] = None,
    device: Annotated[str | None, typer.Option(help="What it runs on, for the report.")] = None,
    recording: Annotated[
        Path | None, typer.Option(help="Only write the report of this recording again.")
    ] = None,
) -> None:
    """Put load on a service and report what it holds, and what it does beyond that."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if recording is None:
            recording = out / "recording.jsonl"
            settings = load_profile(profile)
            target = None if url is None else Target(url.rstrip("/"), grpc, worker_metrics)
            _run(check_shape(shape), settings, target, bundle, demo, recording, device)
        rows = write_reports(Recording.read(recording), out)
    except PadrecError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    for kind in ("stage", "held", "beyond"):
        if of_kind := [row for row in rows if row["kind"] == kind]:
            names = _SHOWN if kind == "stage" else of_kind[0]
            print_rows([{name: row[name] for name in names if name != "kind"} for row in of_kind])
    print(f"\nthe report: {out / 'report.html'}, {out / 'report.json'}")


def _run(
    shape: str,
    profile: Profile,
    target: Target | None,
    bundle: Path | None,
    demo: Path,
    recording: Path,
    device: str | None,
) -> None:
    """Do a load test, on a service of its own where there is no target."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="padrec-loadtest-")))
        if target is None:
            served = bundle or build_demo(demo)
            say("starting the service")
            target = stack.enter_context(serving(served, folder))
        run = Run(target, shape, profile, recording.absolute(), _about(shape, profile, device))
        run.write(folder / "run.json")
        say(f"putting load on {target.url}: {shape}")
        _locust(profile, folder / "run.json", recording.with_name("locust.log"))


def _locust(profile: Profile, run_file: Path, log: Path) -> None:
    """Have Locust ask: one process, or as many as the profile says and one that leads them."""
    patience = _STOP_SECONDS + profile.deadline_ms // 1_000
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--exit-code-on-error", "0"]
    root = str(_LOCUSTFILE.parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, RUN_FILE: str(run_file), "PYTHONPATH": path}
    leads = ["--headless", "--only-summary", "--stop-timeout", str(patience), "--logfile", str(log)]
    with ExitStack() as stack:
        if profile.generators > 1:
            port = str(free_port())
            leads += ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port]
            leads += ["--expect-workers", str(profile.generators)]
            leads += ["--expect-workers-max-wait", str(_START_SECONDS)]
            for number in range(profile.generators):
                its_log = log.with_name(f"{log.stem}-{number}{log.suffix}")
                follows = ["--worker", "--master-port", port, "--logfile", str(its_log)]
                stack.enter_context(_process([*command, *follows], {**environment, GENERATOR: str(number)}))
        done = subprocess.run([*command, *leads], env=environment, stdout=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise PadrecError(f"locust ended with exit code {done.returncode}; {log} says why")


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """A process that is told to end, if it has not ended by then."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _about(shape: str, profile: Profile, device: str | None) -> dict[str, Any]:
    return {
        "command": command_line(shape),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "device": device or f"{platform.processor() or platform.machine()} CPU, {os.cpu_count()} cores",
        "shape": shape,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": list(os.getloadavg()),
        "profile": profile.model_dump(mode="json"),
    }


if __name__ == "__main__":
    typer.run(loadtest)
