"""Visitors for Locust: REST and gRPC, open loop. `python -m loadtest` starts this with what it needs.

Where one process cannot ask for as much, several do, Locust's workers, and Locust's master leads them: it prepares,
watches and records what they tell it.

When a visitor is due again does not depend on the answer, and a call's time runs from when it was due. So neither a
slow service nor a slow load generator hides its slowness by asking less.
"""

import logging
import os
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gevent
import grpc
import grpc.experimental.gevent
import httpx
from geventhttpclient.client import HTTPClientPool
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from locust import FastHttpUser, LoadTestShape, User, events, task
from locust.env import Environment
from locust.rpc.protocol import Message
from locust.runners import MasterRunner, WorkerRunner

from loadtest.outcomes import OK, of_grpc_batch, of_rest_batch, of_rest_stream, of_rpc_error, of_status
from loadtest.recording import CallRecord, Recorder, Sample, sampled
from loadtest.run import GENERATOR, RUN_FILE, Run
from loadtest.shapes import SHAPES, Schedule, Stage, visitors
from loadtest.telling import SAMPLED
from loadtest.traffic import BATCH, EVENTS, RECOMMEND, STREAM, Call, Shop, Traffic
from service.cli.display import say
from service.client import Client
from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc

_MAX_GRPC_CALLS = 500  # at the same time

# gRPC waits for every call in a thread of this pool. Of its ten the eleventh call would have to wait for one.
gevent.get_hub().threadpool.maxsize = _MAX_GRPC_CALLS
grpc.experimental.gevent.init_gevent()
logging.getLogger("httpx").setLevel(logging.WARNING)

PATHS = {
    RECOMMEND: "/recommend",
    STREAM: "/recommend/stream",
    BATCH: "/recommend/batch",
    EVENTS: "/events",
}
OPS = {"==": pb.OP_EQUAL, "<=": pb.OP_LESS_OR_EQUAL}

_SAMPLE_SECONDS = 1.0
_TELL_SECONDS = 0.2
# Messages between the processes of Locust.
_CLOCK, _CALLS = "padrec-clock", "padrec-calls"
_PREPARE_DEADLINE_MS = 30_000
# Connections that each gateway is asked over; more than ever wait at the same time.
_MAX_CONNECTIONS = 2_000
_PATIENCE = 2.0  # seconds after a deadline, until a call counts as broken
_PERCENT = 100

RUN = Run.read(Path(os.environ[RUN_FILE]))
PROFILE = RUN.profile
# Which of several generators this process is; None: the one that leads them, or does all.
NUMBER = int(os.environ[GENERATOR]) if GENERATOR in os.environ else None
KEY = os.environ.get("PADREC_API_KEY")
HEADERS = {"Authorization": f"Bearer {KEY}"} if KEY else {}
DEADLINE = PROFILE.deadline_ms / 1000


class _Test:
    """What all visitors of a process share.

    Args:
        generator: which of several it is; None: the process that leads them, or does all, and records.

    Attributes:
        traffic: filled by `prepare`.
    """

    def __init__(self, generator: int | None) -> None:
        self.traffic: Traffic
        self._generator = generator
        self._recorder = Recorder(RUN.recording, RUN.about) if generator is None else None
        self._untold: list[CallRecord] = []
        self._cpu_seconds: dict[str, float] = {}  # of generators, as they told
        self._start = time.monotonic()

    @property
    def recorder(self) -> Recorder:
        """Of the process that leads."""
        assert self._recorder is not None
        return self._recorder

    def now(self) -> float:
        """Seconds of the recording."""
        return time.monotonic() - self._start

    def prepare(self) -> None:
        """Learn what the catalogue holds; the process that leads also gives users their histories."""
        with Client(RUN.target.urls[0], api_key=KEY) as client:
            answer = client.recommend("load-nobody", num_items=50, deadline_ms=_PREPARE_DEADLINE_MS)
            shop = Shop.of(answer.model_dump(mode="json")["items"])
            self.traffic = Traffic(PROFILE, shop, self._generator or 0)
            lots: Any = self.traffic.histories() if self._recorder else []  # typed dictionaries, drawn
            for lot in lots:
                client.record_events(lot, deadline_ms=_PREPARE_DEADLINE_MS)
        self._start = time.monotonic()

    def call(self, record: CallRecord) -> None:
        """A call is over."""
        if self._recorder is None:
            self._untold.append(record)
        else:
            self._recorder.call(record)

    def tell(self, runner: WorkerRunner) -> None:
        """Tell the process that leads what is over."""
        untold, self._untold = self._untold, []
        calls = [asdict(record) for record in untold]
        runner.send_message(_CALLS, {"calls": calls, "cpu_seconds": time.process_time()})

    def told(self, message: Message) -> None:
        """A generator has told what is over."""
        self._cpu_seconds[message.node_id] = message.data["cpu_seconds"]
        for fields in message.data["calls"]:
            self.recorder.call(CallRecord(**fields))

    def set_clock(self, start: float) -> None:
        """Count seconds as the process that leads does; a machine's processes share what they are counted from."""
        self._start = start

    def lead(self, runner: MasterRunner) -> None:
        """Have generators count seconds as this process does."""
        runner.send_message(_CLOCK, self._start)

    def watch(self) -> None:
        """Ask the processes for their metrics, again and again; one that is slow holds up no other."""
        asked = [("gateway", number, f"{url}/metrics") for number, url in enumerate(RUN.target.urls)]
        if RUN.target.worker_metrics is not None:
            asked.append(("worker", 0, RUN.target.worker_metrics))
        with httpx.Client(headers=HEADERS, timeout=_PATIENCE) as http:
            for process, number, url in asked:
                gevent.spawn(self._ask_always, http, process, number, url)
            while True:
                cpu_seconds = time.process_time() + sum(self._cpu_seconds.values())
                own = {"process_cpu_seconds_total": cpu_seconds}
                self.recorder.sample(Sample("locust", self.now(), own))
                gevent.sleep(_SAMPLE_SECONDS)

    def _ask_always(self, http: httpx.Client, process: str, number: int, url: str) -> None:
        while True:
            at = self.now()
            # One that is busy is asked again soon.
            with suppress(httpx.HTTPError):
                values = sampled(http.get(url).raise_for_status().text, SAMPLED)
                self.recorder.sample(Sample(process, at, values, number))
            gevent.sleep(_SAMPLE_SECONDS)


TEST = _Test(NUMBER)


@events.init.add_listener
def _prepare(environment: Environment, **_: Any) -> None:
    # Locust's own tables, which know REST alone and print every error that it met; the report has all.
    logging.getLogger("locust.stats_logger").setLevel(logging.WARNING)
    TEST.prepare()
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        runner.register_message(_CLOCK, lambda msg, **_: TEST.set_clock(msg.data))
        gevent.spawn(_tell_always, runner)
        return
    if isinstance(runner, MasterRunner):
        runner.register_message(_CALLS, lambda msg, **_: TEST.told(msg))
    gevent.spawn(TEST.watch)


def _tell_always(runner: WorkerRunner) -> None:
    while True:
        gevent.sleep(_TELL_SECONDS)
        TEST.tell(runner)


@events.test_start.add_listener
def _lead(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner):
        TEST.lead(environment.runner)


@events.test_stop.add_listener
def _tell_rest(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        TEST.tell(environment.runner)


@events.quitting.add_listener
def _close(environment: Environment, **_: Any) -> None:
    if not isinstance(environment.runner, WorkerRunner):
        TEST.recorder.close()


class Shape(LoadTestShape):
    """The rates of the run's shape, as numbers of visitors."""

    def __init__(self) -> None:
        super().__init__()
        stages = SHAPES[RUN.shape](PROFILE, lambda stage: TEST.recorder.was_held(stage, DEADLINE))
        self._schedule = Schedule(stages, self._begin)
        self._number = self._per_second = 0

    def tick(self) -> tuple[int, float] | None:
        """How many visitors there are now, and how many may come or go in a second; None: it is over."""
        if self._schedule.at(TEST.now()) is None:
            return None
        return self._number, self._per_second

    def _begin(self, stage: Stage, start: float) -> None:
        say(f"{stage.name}: {stage.rate:.3g} calls per second for {stage.seconds:g} s")
        TEST.recorder.stage(stage, start)
        before, self._number = self._number, visitors(stage.rate, PROFILE.think_seconds)
        self._per_second = max(before, self._number)  # all at once


class _Visitor(User):
    """Asks when it is due, always the same gateway, as over a connection that is kept."""

    abstract = True
    protocol = ""

    def on_start(self) -> None:
        """Be due for the first time at any time of the first think time, so that few are due together."""
        self._due = TEST.now() + random.uniform(0, PROFILE.think_seconds)
        gevent.sleep(self._due - TEST.now())

    def wait_time(self) -> float:
        """Until it is due again, counted from when it was due, not from the answer."""
        self._due += random.uniform(0.5, 1.5) * PROFILE.think_seconds
        return max(0.0, self._due - TEST.now())

    @task
    def visit(self) -> None:
        """One call."""
        call, left = TEST.traffic.next(), TEST.now()
        outcomes = self.make(call)
        seconds = TEST.now() - self._due
        record = CallRecord(self.protocol, call.name, self._due, left - self._due, seconds, dict(outcomes))
        TEST.call(record)

    def make(self, call: Call) -> Mapping[str, int]:
        """Make a call; its outcomes."""
        raise NotImplementedError


class RestVisitor(FastHttpUser, _Visitor):
    """Over HTTP, by connections that all of a gateway share, as those of a backend do."""

    protocol = "rest"
    turns = RUN.target.turns(NUMBER or 0, PROFILE.generators)
    weight = max(1, round(_PERCENT * (1 - PROFILE.grpc_share)))
    client_pool = HTTPClientPool(
        concurrency=_MAX_CONNECTIONS,
        connection_timeout=DEADLINE + _PATIENCE,
        network_timeout=DEADLINE + _PATIENCE,
    )
    default_headers = HEADERS

    def __init__(self, environment: Environment) -> None:
        self.host = RUN.target.urls[next(self.turns)]
        super().__init__(environment)

    def make(self, call: Call) -> Mapping[str, int]:
        """Post it."""
        with self.client.post(PATHS[call.name], json=call.body, catch_response=True) as response:
            status, when = response.status_code, (response.headers or {}).get("retry-after")
            if status != 200:
                return {of_status(status, when is not None): max(1, call.num_lists)}
            if call.name == STREAM:
                outcome, answer = of_rest_stream(response.text or "")
                if answer is not None:
                    TEST.traffic.listed(answer)
                return {outcome: 1}
            answer = response.json()
        if call.name == BATCH:
            return of_rest_batch(answer["results"])
        if call.name == RECOMMEND:
            TEST.traffic.listed(answer)
        return {OK: 1}


class GrpcVisitor(_Visitor):
    """Over gRPC, by one channel that all of a gateway share."""

    protocol = "grpc"
    turns = RUN.target.turns(NUMBER or 0, PROFILE.generators)
    weight = max(1, round(_PERCENT * PROFILE.grpc_share))
    abstract = not RUN.target.grpc or PROFILE.grpc_share == 0
    stubs = tuple(
        recommender_pb2_grpc.RecommenderStub(grpc.insecure_channel(address)) for address in RUN.target.grpc
    )

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._stub = self.stubs[next(self.turns)]
        self._metadata = [(name.lower(), value) for name, value in HEADERS.items()]

    def make(self, call: Call) -> Mapping[str, int]:
        """Call it."""
        try:
            return self._make(call)
        except grpc.RpcError as error:
            return {of_rpc_error(error): max(1, call.num_lists)}

    def _make(self, call: Call) -> Mapping[str, int]:
        options = {"timeout": DEADLINE, "metadata": self._metadata}
        if call.name == EVENTS:
            self._stub.RecordEvents(ParseDict(call.body, pb.RecordEventsRequest()), **options)
            return {OK: 1}
        if call.name == BATCH:
            asked = pb.BatchRecommendRequest(requests=map(_message, call.body["requests"]))
            results = self._stub.BatchRecommend(asked, **options).results
            return of_grpc_batch([result.error.code for result in results])
        if call.name == RECOMMEND:
            _listed(self._stub.Recommend(_message(call.body), **options))
            return {OK: 1}
        for update in self._stub.RecommendStream(_message(call.body), **options):
            if update.WhichOneof("update") == "done":
                _listed(update.done)
        return {OK: 1}


def _message(body: Mapping[str, Any]) -> pb.RecommendRequest:
    """A request for a list; its deadline is the call's."""
    message = pb.RecommendRequest(user_id=body["user_id"], num_items=body["num_items"])
    if "filter" in body:
        wanted = body["filter"]
        value = ParseDict(wanted["value"], Value())
        condition = pb.Condition(attribute=wanted["attribute"], op=OPS[wanted["op"]], value=value)
        message.filter.CopyFrom(pb.Filter(condition=condition))
    return message


def _listed(answer: pb.RecommendResponse) -> None:
    TEST.traffic.listed(
        {
            "user_id": answer.user_id,
            "recommendation_id": answer.recommendation_id,
            "items": [{"item_id": one.item.item_id} for one in answer.items],
        }
    )
