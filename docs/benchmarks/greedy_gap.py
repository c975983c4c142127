"""What greedy decoding, code by code, makes of a teacher's probabilities: nothing is trained but the teacher.

A target that had learned them to the last digit would write these lists. Codes are as probable as all items below them
together (what a model of lists learns), or as the best item below them (what padrec's targets learn).

    python docs/benchmarks/greedy_gap.py DATASET [--knn-weight 0.7] [--users 4000] [--device cuda]
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from service.data.dataset import Dataset
from service.evaluation.metrics import ranking_metrics
from service.model.presets import preset_named
from service.model.target import pick_device
from service.prepared import Prepared, build_catalogue, prepared_cases
from service.teachers import teacher_for
from service.training.item_ids import given_semantic_ids
from service.training.teacher import ItemKnn, Teacher, excludes_seen

NUM_ITEMS, AT_ONCE = 10, 250

Reduce = Callable[
    [torch.Tensor, torch.Tensor, int], torch.Tensor
]  # scores, node of each column, nodes; by node


def total(scores: torch.Tensor, node: torch.Tensor, num_nodes: int) -> torch.Tensor:
    """Logs of the sums of probabilities."""
    largest = scores.amax(dim=1, keepdim=True)
    sums = scores.new_zeros(len(scores), num_nodes).index_add_(1, node, (scores - largest).exp())
    return sums.log() + largest


def best(scores: torch.Tensor, node: torch.Tensor, num_nodes: int) -> torch.Tensor:
    """Logs of the largest probabilities."""
    start = scores.new_full((len(scores), num_nodes), -torch.inf)
    return start.scatter_reduce_(1, node.expand(len(scores), -1), scores, "amax")


def greedy(scores: torch.Tensor, levels: list[torch.Tensor], reduce: Reduce) -> torch.Tensor:
    """Lists of the likeliest codes, [batch, NUM_ITEMS]; `levels` tell the node of each item at each depth."""
    left, lists = scores.clone(), []
    for _ in range(NUM_ITEMS):
        below = left
        for node in levels:
            chosen = reduce(below, node, int(node.max()) + 1).argmax(dim=1)
            below = below.masked_fill(node != chosen.unsqueeze(1), -torch.inf)
        lists.append(below.argmax(dim=1))
        left = left.scatter(1, lists[-1].unsqueeze(1), -torch.inf)
    return torch.stack(lists, dim=1)


def beam(scores: torch.Tensor, levels: list[torch.Tensor], reduce: Reduce) -> torch.Tensor:
    """The items of the largest joint probability of codes, [batch, NUM_ITEMS]: a beam that is wide enough."""
    above = torch.zeros_like(levels[0])
    joint = scores.new_zeros(len(scores), 1)
    for node in levels:
        of_node = reduce(scores, node, int(node.max()) + 1)
        parent = torch.zeros_like(of_node[0], dtype=torch.int64).scatter_(0, node, above)
        joint = joint[:, parent] + of_node - total(of_node, parent, int(above.max()) + 1)[:, parent]
        above = node
    joint = joint[:, above].masked_fill(scores == -torch.inf, -torch.inf)
    return joint.nan_to_num(nan=-torch.inf).topk(NUM_ITEMS, dim=1).indices


def main() -> None:
    """Print Recall@10 and NDCG@10 on validation users."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--knn-weight", type=float, default=1.0)
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()

    device, dataset = pick_device(args.device), Dataset.open(args.dataset)
    ids = given_semantic_ids(dataset)
    if ids is None:
        raise SystemExit("the dataset has no semantic IDs")
    prepared, cases = prepared_cases(dataset, build_catalogue(dataset, ids), "valid")
    picked = np.random.default_rng(args.seed).permutation(len(cases))[: args.users]
    histories, targets = [cases[n].history for n in picked], [cases[n].target for n in picked]
    scores = scores_of(teacher(prepared, args.knn_weight, device, args.seed), prepared, histories)
    codes = prepared.catalogue.codes
    levels = [
        torch.as_tensor(np.unique(codes[:, :n], axis=0, return_inverse=True)[1].ravel(), device=device)
        for n in range(1, codes.shape[1] + 1)
    ]

    def show(name: str, lists: list[torch.Tensor]) -> None:
        figures = ranking_metrics(torch.cat(lists).tolist(), targets)
        print(f"{name:<32} {figures['recall@10']:.4f} {figures['ndcg@10']:.4f}", flush=True)

    show("the teacher's ranking", [part.topk(NUM_ITEMS, dim=1).indices for part in scores])
    for reduce in (total, best):
        for temperature in (1.0, 0.5, 0.3):
            for write in (greedy, beam):
                name = f"{write.__name__}, {reduce.__name__}, T {temperature}"
                show(name, [write(part / temperature, levels, reduce) for part in scores])


def teacher(prepared: Prepared, knn_weight: float, device: torch.device, seed: int) -> Teacher:
    """The one that a target of such a recipe has."""
    recipe = replace(preset_named("tiny").training, knn_weight=knn_weight)
    with tempfile.TemporaryDirectory() as work:
        return teacher_for(
            recipe,
            ItemKnn(prepared.split.train, len(prepared.catalogue), device=device),
            prepared.split,
            prepared.catalogue.codes,
            device=device,
            seed=seed,
            file=Path(work) / "teacher.safetensors",
            on_epoch=lambda epoch, most, value: print(f"epoch {epoch}: {value:.4f}", flush=True),
        )


def scores_of(by: Teacher, prepared: Prepared, histories: list[np.ndarray]) -> list[torch.Tensor]:
    """Of all items, for some histories at a time."""
    exclude_seen = excludes_seen(prepared.split.train)
    begins = range(0, len(histories), AT_ONCE)
    return [by.scores(histories[begin : begin + AT_ONCE], exclude_seen=exclude_seen) for begin in begins]


if __name__ == "__main__":
    main()
