"""How fast lists are written: the same lists by several methods, in batches, timed in turns."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.catalog.window import window
from service.data.split import Case
from service.engine.reference import write_list
from service.evaluation.acceptance import acceptance_figures, guess_figures, latency_figures
from service.evaluation.decode_methods import AUTOREGRESSIVE, Method, Write, num_bytes
from service.evaluation.near_ties import agreement_figures
from service.evaluation.timing import synchronize, timed
from service.evaluation.weight_read import weight_read_seconds
from service.types import DecodedList, DecodeRequest

Row = dict[str, Any]

_MOST_TURNS = 12  # of untimed batches: what guesses by load may always want one more shape

# A row has all of them, None where a method has no such figure.
COLUMNS = (
    "method",
    "draft",
    "tree",
    "constrained",
    "temperature",
    "batch",
    "users",
    "lists_per_second",
    "ms_per_list_p50",
    "ms_per_list_p99",
    "accepted_length",
    "accepted_length_low",
    "accepted_length_high",
    "accepted_length_without_forced",
    "rounds_per_list",
    "passes_per_list",
    "ms_per_pass",
    "weight_reads_per_pass",
    "speed_up",
    "accepted_by_slot",
    "accepted_by_step",
    "draft_tokens_per_round",
    "equal_to_reference",
    "num_different",
    "largest_gap",
    "gap_unit",
    "num_wide",
    "not_allowed",
    "peak_memory_bytes",
    "passes",
    "width",
    "places",
    "share",
    "parameters",
    "position_parameters",
    "position_ms_per_pass",
    "position_share_of_pass",
)


@dataclass(frozen=True, slots=True)
class Question:
    """What all methods are asked.

    Attributes:
        model: the target, in evaluation mode.
        catalogue: of the same bundle.
        layout: how codes become tokens.
        requests: one for each user, at least one.
        num_checked: so many of them are written by the reference too.
        seed: of the order of turns and of the bootstrap.
    """

    model: PreTrainedModel
    catalogue: Catalogue
    layout: TokenLayout
    requests: Sequence[DecodeRequest]
    num_checked: int
    seed: int


def requests_of(
    cases: Sequence[Case],
    *,
    num_items: int,
    max_history_items: int,
    exclude_seen: bool,
    temperature: float,
    top_p: float,
    seed: int,
) -> list[DecodeRequest]:
    """A request for each user, as the gateway would make it; each samples with a seed of its own."""
    return [
        DecodeRequest(
            request_id=str(index),
            history=window(case.history.tolist(), max_history_items),
            num_items=num_items,
            excluded=tuple(np.unique(case.history).tolist()) if exclude_seen else (),
            temperature=temperature,
            top_p=top_p,
            seed=seed + index,
        )
        for index, case in enumerate(cases)
    ]


def measure_decode(
    question: Question,
    methods: Sequence[Method],
    *,
    batches: Sequence[int],
    repeats: int,
    warms_up: bool = True,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> list[Row]:
    """Rows of `padrec bench decode`: for each batch size one for each method.

    Args:
        question: the lists to be written.
        methods: ways to write them.
        batches: lists in a batch.
        repeats: how often each list is timed.
        warms_up: lists are written untimed first.
        on_progress: called with timed batches so far, of how many, and what they are.
    """
    checked = question.requests[: question.num_checked]
    expected = []
    for request in checked:
        expected.append(write_list(question.model, question.catalogue.codes, question.layout, request))
        on_progress(len(expected), len(checked), "lists of the reference")
    weight_read = weight_read_seconds(num_bytes(question.model.parameters()), question.model.device)
    rows = []
    for batch in batches:
        # No name for the runs: their memory is given back before the next batch size asks for its own.
        of_batch = [
            _row(question, run, batch, expected, weight_read)
            for run in _run(question, methods, batch, repeats, warms_up, on_progress)
        ]
        rows += with_speed_ups(of_batch)
    return rows


def with_speed_ups(rows: Sequence[Row]) -> list[Row]:
    """Set each row's `speed_up`: its lists per second over those of the autoregressive row; None without one."""
    plain = next((row["lists_per_second"] for row in rows if row["method"] == AUTOREGRESSIVE), None)
    return [row | {"speed_up": None if plain is None else row["lists_per_second"] / plain} for row in rows]


def in_batches(requests: Sequence[DecodeRequest], batch: int) -> list[list[DecodeRequest]]:
    """Batches of equal size; the last is filled up from the first users again, under other request IDs."""
    places = np.resize(np.arange(len(requests)), math.ceil(len(requests) / batch) * batch).tolist()
    unique = [replace(requests[place], request_id=str(i)) for i, place in enumerate(places)]
    return [unique[begin : begin + batch] for begin in range(0, len(unique), batch)]


@dataclass
class _Run:
    """One method at one batch size.

    Attributes:
        held: bytes on the GPU that it keeps between batches, its models' weights left out.
        seconds: of each timed batch, filled by `_run`, like what follows.
        lists: of the first repeat.
        peak: the most bytes on the GPU that a batch took for a while.
    """

    method: Method
    write: Write
    held: int
    seconds: list[float] = field(default_factory=list)
    lists: list[DecodedList] = field(default_factory=list)
    peak: int = 0


def _run(
    question: Question,
    methods: Sequence[Method],
    batch: int,
    repeats: int,
    warms_up: bool,
    on_progress: Callable[[int, int, str], None],
) -> list[_Run]:
    """Time all methods; they take turns batch by batch, in an order drawn anew, so that drift hits all alike."""
    device = question.model.device
    work = in_batches(question.requests, batch)
    runs = [_start(method, batch, work if warms_up else [], device) for method in methods]
    rng = np.random.default_rng(question.seed)
    done, total = 0, repeats * len(work) * len(runs)
    for repeat in range(repeats):
        for requests in work:
            for place in rng.permutation(len(runs)):
                lists = _time(runs[place], requests, device)
                if repeat == 0:
                    runs[place].lists += lists
                done += 1
                on_progress(done, total, f"batches of {batch}")
    return runs


def _start(method: Method, batch: int, work: list[list[DecodeRequest]], device: torch.device) -> _Run:
    """Make a method ready, and have it write these, or some of them, untimed."""
    before = _allocated(device)
    writer = method.start(batch)
    if writer.num_captured is not None and device.type == "cuda":
        meet_all_shapes(writer.write, writer.num_captured, work)
    elif work:
        by_length = sorted(work, key=lambda requests: max(len(request.history) for request in requests))
        for place in sorted({0, len(work) // 2, len(work) - 1}):
            writer.write(by_length[place])
    synchronize(device)
    return _Run(method, writer.write, held=_allocated(device) - before)


def meet_all_shapes(write: Write, num_captured: Callable[[], int], work: list[list[DecodeRequest]]) -> None:
    """Write all of it again and again, until nothing was captured twice in a row: a service knows its shapes for long.

    What is met rarely may be captured later, as in a service.
    """
    quiet = 0
    for _ in range(_MOST_TURNS):
        known = num_captured()
        for requests in work:
            write(requests)
        quiet = quiet + 1 if num_captured() == known else 0
        if quiet == 2:
            break


def _time(run: _Run, requests: list[DecodeRequest], device: torch.device) -> Sequence[DecodedList]:
    """Write one batch with a clock running."""
    before = _allocated(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    lists, seconds = timed(lambda: run.write(requests), device)
    run.seconds.append(seconds)
    if device.type == "cuda":
        run.peak = max(run.peak, torch.cuda.max_memory_allocated(device) - before)
    return lists


def _row(
    question: Question, run: _Run, batch: int, expected: Sequence[DecodedList], weight_read: float
) -> Row:
    method, requests = run.method, question.requests
    lists = run.lists[: len(requests)]  # without those that filled up the last batch
    latency = latency_figures(run.seconds, batch)
    row = dict.fromkeys(COLUMNS)
    row |= {
        "method": method.name,
        "draft": method.draft,
        "tree": method.tree,
        "constrained": method.constrained,
        "temperature": requests[0].temperature if lists else 0.0,  # without lists it is the greedy baseline
        "batch": batch,
        "users": len(requests),
        **latency,
    }
    if lists:
        of_lists = acceptance_figures(lists, question.seed)
        ms_per_pass = latency["ms_per_list_p50"] / of_lists["passes_per_list"]
        row |= of_lists
        row |= {"ms_per_pass": ms_per_pass, "weight_reads_per_pass": ms_per_pass / 1e3 / weight_read}
        row |= agreement_figures(
            question.model,
            question.catalogue.codes,
            question.layout,
            requests[: len(expected)],
            expected,
            lists[: len(expected)],
        )
    if method.shape is not None:
        row |= guess_figures(lists)
    if method.shape is not None and method.tree != "auto":  # which chooses anew at every round
        row |= {
            "passes": method.shape.num_passes,
            "width": method.shape.width,
            "places": method.shape.num_places,
            "share": method.shape.share,
        }
    row |= method.draft_figures(batch)
    if question.model.device.type == "cuda":
        row["peak_memory_bytes"] = method.weights + run.held + run.peak
    return row


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
