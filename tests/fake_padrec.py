"""`padrec serve`, `worker` and `gateway` without a model: `fake_padrec.py COMMAND BUNDLE ...`. No test.

The worker tells its process ID to whoever connects; the gateway answers with both IDs as JSON. Each writes a
line to BUNDLE/ended when SIGTERM ends it. A file BUNDLE/refuse-NAME makes the child NAME exit with 2,
BUNDLE/fail-NAME with 1.
"""

import json
import os
import signal
import socket
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from service.processes import end_with_supervisor, leave_last_words


def at_end(bundle: Path, name: str) -> None:
    def end(*_: object) -> None:
        with (bundle / "ended").open("a") as file:
            file.write(f"{name}\n")
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    end_with_supervisor()
    if (bundle / f"refuse-{name}").exists():
        print(f"error: the {name} refuses", file=sys.stderr)
        leave_last_words(f"the {name} refuses")
        sys.exit(2)
    if (bundle / f"fail-{name}").exists():
        sys.exit(1)


def worker(bundle: Path) -> None:
    path = os.environ["PADREC_WORKER__LISTEN"].removeprefix("unix:")
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            with listener.accept()[0] as connection:
                connection.sendall(str(os.getpid()).encode())


def worker_pid() -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["PADREC_GATEWAY__WORKER"].removeprefix("unix:"))
        return int(connection.recv(100))


class Gateway(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        try:
            body = {
                "worker": worker_pid(),
                "gateway": os.getpid(),
                "argv": sys.argv[1:],
                "env": dict(os.environ),
            }
            self.send_response(200)
        except (OSError, ValueError) as error:
            body = {"error": str(error)}
            self.send_response(503)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


def gateway(fd: int) -> None:
    server = HTTPServer(("", 0), Gateway, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=fd)
    server.serve_forever()


def serve(bundle: Path) -> int:
    from service.config import load_settings
    from service.errors import PadrecError
    from service.launch import serve

    config = bundle / "padrec.toml" if (bundle / "padrec.toml").exists() else None
    try:
        return serve(
            bundle,
            load_settings(config),
            config,
            on_ready=lambda url: print(url, flush=True),
            padrec=(sys.executable, __file__),
        )
    except PadrecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    command, bundle = sys.argv[1], Path(sys.argv[2])
    if command == "serve":
        sys.exit(serve(bundle))
    at_end(bundle, command)
    if command == "worker":
        worker(bundle)
    else:
        gateway(int(sys.argv[sys.argv.index("--fd") + 1]))
