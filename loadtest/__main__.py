"""`python -m loadtest`: a service, load on it, and the report; or a report alone, of a recording."""

import os
import platform
import subprocess
import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from loadtest.processes import free_ports, running
from loadtest.profile import DEFAULT, Profile, load_profile
from loadtest.recording import Recording
from loadtest.report import write_reports
from loadtest.run import GENERATOR, RUN_FILE, Run, Target
from loadtest.serving import build_demo, serving
from loadtest.shapes import check_shape
from service.cli.display import say
from service.cli.reporting import command_line, print_rows
from service.errors import InputError, PadrecError

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
    gateways: Annotated[int, typer.Option(min=1, help="That stand in front of its worker.")] = 1,
    history: Annotated[
        str | None, typer.Option(help="URL of its store, as redis://…; default: a file that ends with it.")
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(help="A service that runs already; none is started. Again for each further gateway."),
    ] = None,
    grpc: Annotated[
        list[str] | None,
        typer.Option(help="host:port of its gRPC, again for each further --url; default: REST alone."),
    ] = None,
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
            shape, settings = check_shape(shape), load_profile(profile)
            given = _given(url or [], grpc or [], worker_metrics, gateways, history)
            with nullcontext(given) if given else _started(bundle, demo, out, gateways, history) as target:
                _run(shape, settings, target, recording, device)
        rows = write_reports(Recording.read(recording), out)
    except PadrecError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    for kind in ("stage", "held", "beyond"):
        if of_kind := [row for row in rows if row["kind"] == kind]:
            names = _SHOWN if kind == "stage" else of_kind[0]
            print_rows([{name: row[name] for name in names if name != "kind"} for row in of_kind])
    print(f"\nthe report: {out / 'report.html'}, {out / 'report.json'}")


def _given(
    urls: list[str], grpc: list[str], worker_metrics: str | None, gateways: int, history: str | None
) -> Target | None:
    """The service that runs already, if one does."""
    if urls and gateways > 1:
        raise InputError(
            "--gateways are those of a service that is started; of another, give each one's --url"
        )
    if urls and history:
        raise InputError("--history is that of a service that is started; another has its own already")
    if grpc and len(grpc) != len(urls):
        raise InputError(f"--grpc: none, or one for each --url, and not {len(grpc)} for {len(urls)}")
    if not urls:
        return None
    return Target(tuple(url.rstrip("/") for url in urls), tuple(grpc), worker_metrics)


def _started(
    bundle: Path | None, demo: Path, logs: Path, gateways: int, history: str | None
) -> AbstractContextManager[Target]:
    """A service of the test's own, which ends with the block."""
    served = bundle or build_demo(demo)
    say("starting the service")
    return serving(served, logs, gateways, history)


def _run(shape: str, profile: Profile, target: Target, recording: Path, device: str | None) -> None:
    """Do a load test."""
    about = _about(shape, profile, len(target.urls), device)
    with TemporaryDirectory(prefix="padrec-loadtest-") as folder:
        run_file = Path(folder) / "run.json"
        Run(target, shape, profile, recording.absolute(), about).write(run_file)
        say(f"putting load on {', '.join(target.urls)}: {shape}")
        _locust(profile, run_file, recording.with_name("locust.log"))


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
            port = str(free_ports(1)[0])
            leads += ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port]
            leads += ["--expect-workers", str(profile.generators)]
            leads += ["--expect-workers-max-wait", str(_START_SECONDS)]
            for number in range(profile.generators):
                its_log = log.with_name(f"{log.stem}-{number}{log.suffix}")
                follows = ["--worker", "--master-port", port, "--logfile", str(its_log)]
                stack.enter_context(running([*command, *follows], {**environment, GENERATOR: str(number)}))
        done = subprocess.run([*command, *leads], env=environment, stdout=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise PadrecError(f"locust ended with exit code {done.returncode}; {log} says why")


def _about(shape: str, profile: Profile, gateways: int, device: str | None) -> dict[str, Any]:
    return {
        "command": command_line("python", "-m", "loadtest"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "device": device or f"{platform.processor() or platform.machine()} CPU, {os.cpu_count()} cores",
        "shape": shape,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": list(os.getloadavg()),
        "gateways": gateways,
        "profile": profile.model_dump(mode="json"),
    }


if __name__ == "__main__":
    typer.run(loadtest)
