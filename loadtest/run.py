"""One load test: what it is told, in a file that the load generator reads."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from loadtest.profile import Profile
from service.files import write_json

# The environment variable that holds the file's path.
RUN_FILE = "PADREC_LOADTEST_RUN"
# And the one that says which of several generators a process is, from 0; the process that leads them has none.
GENERATOR = "PADREC_LOADTEST_GENERATOR"


@dataclass(frozen=True, slots=True)
class Target:
    """A service.

    Attributes:
        urls: of its gateways, at least one.
        grpc: `host:port` of each gateway's gRPC; none: REST alone is asked.
        worker_metrics: URL of its worker's /metrics; None: the worker is not asked.
    """

    urls: tuple[str, ...]
    grpc: tuple[str, ...] = ()
    worker_metrics: str | None = None

    def turns(self, generator: int, generators: int) -> Iterator[int]:
        """Which gateway each visitor of a generator asks, by its place in `urls`, the first visitor first.

        Every gateway gets as many as every other, of one generator and of all, or one more.
        """
        first = generator * len(self.urls) // generators
        return (number % len(self.urls) for number in itertools.count(first))


@dataclass(frozen=True, slots=True)
class Run:
    """A load test that is to be done.

    Attributes:
        shape: its name.
        recording: the file to write.
        about: what the report says of the run.
    """

    target: Target
    shape: str
    profile: Profile
    recording: Path
    about: dict[str, Any]

    def write(self, file: Path) -> None:
        """Write it to a file."""
        fields = {
            "target": asdict(self.target),
            "shape": self.shape,
            "profile": self.profile.model_dump(mode="json"),
            "recording": str(self.recording),
            "about": self.about,
        }
        write_json(file, fields)

    @classmethod
    def read(cls, file: Path) -> Self:
        """What `write` wrote."""
        fields = json.loads(file.read_text(encoding="utf-8"))
        profile = Profile.model_construct(**Profile.model_validate(fields["profile"]).model_dump())
        urls, grpc = (tuple(fields["target"].pop(name)) for name in ("urls", "grpc"))
        target, recording = Target(urls, grpc, **fields["target"]), Path(fields["recording"])
        return cls(target, fields["shape"], profile, recording, fields["about"])
