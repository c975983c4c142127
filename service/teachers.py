"""Who ranks items for a target to learn from, or beside it in an evaluation: all know the training part alone."""

from collections.abc import Callable
from pathlib import Path

import torch

from service.catalog.trie import Int32Array
from service.data.split import LeaveOneOut
from service.evaluation.metrics import ranking_metrics
from service.evaluation.quality import ranked_lists
from service.model.checkpoints import load_weights, save_weights
from service.model.presets import TrainingRecipe
from service.training.sasrec import SasRec, SasRecRecipe, train_sasrec
from service.training.teacher import ItemKnn, LogLinearPool, Teacher, excludes_seen

OnEpoch = Callable[[int, int, float], None]


def sasrec_for(
    split: LeaveOneOut,
    num_items: int,
    *,
    codes: Int32Array | None = None,
    device: torch.device,
    seed: int,
    on_epoch: OnEpoch,
) -> SasRec:
    """SASRec, the epoch with the largest NDCG@10 on validation users.

    Args:
        split: in catalogue rows.
        num_items: size of the catalogue.
        codes: see `SasRec`.
        device: where to train.
        seed: of all that is random.
        on_epoch: called after each epoch with its number, of how many at most, and the NDCG@10.
    """
    cases, recipe = split.cases("valid"), SasRecRecipe()
    without = excludes_seen(split.train)

    def metric(model: SasRec) -> float:
        lists = ranked_lists(model, cases, exclude_seen=without)
        return ranking_metrics(lists, [case.target for case in cases])["ndcg@10"]

    return train_sasrec(
        split.train,
        num_items,
        recipe,
        codes=codes,
        device=device,
        seed=seed,
        metric=metric,
        on_epoch=lambda epoch, value: on_epoch(epoch, recipe.max_epochs, value),
    )


def teacher_for(
    recipe: TrainingRecipe,
    knn: ItemKnn,
    split: LeaveOneOut,
    codes: Int32Array,
    *,
    device: torch.device,
    seed: int,
    file: Path,
    on_epoch: OnEpoch,
) -> Teacher:
    """The teacher that a recipe names: item-kNN, a SASRec that knows semantic IDs, or both.

    Args:
        recipe: of the target.
        knn: of the training part.
        split: in catalogue rows.
        codes: of all items, [num_items, L].
        device: where to train it, and where its scores are.
        seed: of all that is random.
        file: where one that had to be trained is kept, for a build that was stopped; of this data, seed and shape.
        on_epoch: see `sasrec_for`.
    """
    weighted: list[tuple[float, Teacher]] = []
    if recipe.knn_weight > 0:
        weighted.append((recipe.knn_weight, knn))
    if recipe.knn_weight < 1:
        if file.exists():
            model = SasRec(len(codes), SasRecRecipe(), codes).to(device)
            load_weights(file, model)
        else:
            model = sasrec_for(split, len(codes), codes=codes, device=device, seed=seed, on_epoch=on_epoch)
            save_weights(file, model)
        weighted.append((1 - recipe.knn_weight, model))
    return LogLinearPool(weighted)
