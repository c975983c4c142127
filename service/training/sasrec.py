"""SASRec (arXiv 1808.09781) with cross-entropy over the full catalogue: the baseline that lists are measured by.

A causal transformer over item IDs, whose scores of the next item are products with the item embeddings. Its published
loss, one sampled negative, is known to be its weakness; with cross-entropy it is level with what came after it (arXiv
2309.07602). The weights kept are those with the largest NDCG@10 on validation users.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from service.catalog.trie import Int32Array
from service.data.dataset import Interactions
from service.model.transfer import sent
from service.training.graphed import GraphedGradient
from service.training.micro_batches import rounded
from service.training.teacher import Histories, IntArray, without_seen

_INITIAL_STD = 0.02
_GRAIN = 256  # items to foresee
_NOTHING = -100  # is to be foreseen


@dataclass(frozen=True, slots=True)
class SasRecRecipe:
    """Shape and training.

    Attributes:
        width: of embeddings.
        num_layers: transformer blocks.
        num_heads: of each.
        max_items: of a history, the latest.
        dropout: of embeddings and in blocks.
        learning_rate: of Adam.
        batch_size: users of a step.
        max_epochs: at most.
        patience: epochs without a better one before training ends.
    """

    width: int = 128
    num_layers: int = 2
    num_heads: int = 2
    max_items: int = 50
    dropout: float = 0.5
    learning_rate: float = 1e-3
    batch_size: int = 128
    max_epochs: int = 200
    patience: int = 10


class ItemEmbedding(nn.Module):
    """Of each item its own vector and, where there are codes, those of its codes, summed.

    Args:
        num_items: size of the catalogue.
        width: of the vectors.
        codes: of all items, [num_items, L]; None: items have nothing in common.
    """

    def __init__(self, num_items: int, width: int, codes: Int32Array | None) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.empty(num_items, width))
        nn.init.normal_(self.own, std=_INITIAL_STD)
        self.of_codes = nn.ParameterList()
        self.register_buffer("codes", None, persistent=False)
        if codes is not None:
            self.codes = torch.as_tensor(codes.astype(np.int64).T)
            for level in self.codes:
                self.of_codes.append(torch.empty(int(level.max()) + 1, width))
                nn.init.normal_(self.of_codes[-1], std=_INITIAL_STD / 2)

    def forward(self) -> torch.Tensor:
        """All vectors, [num_items, width]."""
        weight: torch.Tensor = self.own
        for table, level in zip(self.of_codes, self.codes if len(self.of_codes) else (), strict=True):
            weight = weight + F.embedding(level, table)
        return weight


class SasRec(nn.Module):
    """Ranks items for a history.

    Args:
        num_items: size of the catalogue.
        recipe: its shape.
        codes: of all items, [num_items, L], for one that knows what items have in common; None: as published.
    """

    def __init__(self, num_items: int, recipe: SasRecRecipe, codes: Int32Array | None = None) -> None:
        super().__init__()
        self.num_items, self._recipe = num_items, recipe
        width = recipe.width
        self.items = ItemEmbedding(num_items, width, codes)
        self.positions = nn.Embedding(recipe.max_items, width)
        self.dropout = nn.Dropout(recipe.dropout)
        layer = nn.TransformerEncoderLayer(
            width,
            recipe.num_heads,
            dim_feedforward=4 * width,
            dropout=recipe.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(
            layer, recipe.num_layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        nn.init.normal_(self.positions.weight, std=_INITIAL_STD)

    def forward(self, histories: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads histories.

        Args:
            histories: int64 [batch, n], padded at the end by any item.

        Returns:
            What is known after each item, [batch, n, width], and the vectors of all items, [num_items, width], whose
            products with it are scores of what comes next.
        """
        n = histories.shape[1]
        place = torch.arange(n, device=histories.device)
        items = self.items()
        x = self.dropout(F.embedding(histories, items) + self.positions(place))
        later = place > place.unsqueeze(1)
        # Said, as the library would otherwise look at the mask, for which a GPU must be waited.
        return self.blocks(x, mask=later, is_causal=True), items

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool = True) -> list[IntArray]:
        """The k best rows for each history, best first; arguments as `ItemKnn.rank`."""
        best = self.scores(histories, exclude_seen=exclude_seen).topk(min(k, self.num_items), dim=1)
        values, rows = best.values.cpu().numpy(), best.indices.cpu().numpy()
        return [of_row[of_values > -np.inf] for of_row, of_values in zip(rows, values, strict=True)]

    @torch.no_grad()
    def scores(self, histories: Histories, *, exclude_seen: bool) -> torch.Tensor:
        """See `Teacher`."""
        self.eval()
        padded, lengths = self._padded(histories)
        device = self.items.own.device
        last = torch.arange(len(lengths), device=device), sent(lengths - 1, device)
        known, items = self(sent(padded, device))
        scores: torch.Tensor = known[last] @ items.T
        return without_seen(scores, histories) if exclude_seen else scores

    def foreseen(self, histories: Histories) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `loss` is asked of, for histories of two or more: each item from those before it.

        Returns:
            Histories without their last items, int64 [batch, n], where an item is to be foreseen, int64 [2, m], and
            which one, int64 [m]; padded.
        """
        padded, lengths = self._padded(histories, more=1)
        before, after = padded[:, :-1], padded[:, 1:]
        real = np.stack(np.nonzero(np.arange(after.shape[1]) < lengths[:, None] - 1))
        device = self.items.own.device
        room = rounded(real.shape[1], device, _GRAIN) - real.shape[1]
        where = np.pad(real, ((0, 0), (0, room)))
        wanted = np.pad(after[tuple(real)], (0, room), constant_values=_NOTHING)
        return sent(before, device), sent(where, device), sent(wanted, device)

    def loss(self, before: torch.Tensor, where: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Cross-entropy, mean over items, of what is `foreseen`; only there, as the scores of all items are most of the
        work.
        """
        known, items = self(before)
        row, place = where
        return F.cross_entropy(known[row, place] @ items.T, wanted, ignore_index=_NOTHING)

    def _padded(self, histories: Histories, more: int = 0) -> tuple[IntArray, IntArray]:
        """The latest items of histories, [batch, n], and how many, [batch]."""
        latest = [history[-self._recipe.max_items - more :] for history in histories]
        lengths = np.array([len(history) for history in latest])
        width = min(rounded(int(lengths.max()), self.items.own.device), self._recipe.max_items + more)
        padded = np.zeros((len(latest), width), dtype=np.int64)
        padded[np.arange(width) < lengths[:, None]] = np.concatenate(latest)
        return padded, lengths


def train_sasrec(
    train: Interactions,
    num_items: int,
    recipe: SasRecRecipe,
    *,
    codes: Int32Array | None = None,
    device: torch.device,
    seed: int,
    metric: Callable[[SasRec], float],
    on_epoch: Callable[[int, float], None] = lambda epoch, value: None,
) -> SasRec:
    """Train, and keep the weights of the best epoch.

    Args:
        train: histories of training users; items are rows.
        num_items: size of the catalogue.
        recipe: shape and training.
        codes: see `SasRec`.
        device: where to train.
        seed: of weights, order and dropout.
        metric: of the model as it is, on validation users; the larger the better.
        on_epoch: called after each epoch with its number, from 1, and the metric.
    """
    torch.manual_seed(seed)
    model = SasRec(num_items, recipe, codes).to(device)
    gather_gradient = GraphedGradient(model, model.loss)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, fused=True)
    users = np.flatnonzero(np.diff(train.offsets) > 1)
    rng = np.random.default_rng(seed)
    best, best_epoch = -np.inf, 0
    best_weights = copy.deepcopy(model.state_dict())
    for epoch in range(1, recipe.max_epochs + 1):
        model.train()
        order = rng.permutation(users)
        for begin in range(0, len(order), recipe.batch_size):
            histories = [train.history(user) for user in order[begin : begin + recipe.batch_size].tolist()]
            gather_gradient(*model.foreseen(histories))
            optimizer.step()
        value = metric(model)
        on_epoch(epoch, value)
        if value > best:
            best, best_epoch, best_weights = value, epoch, copy.deepcopy(model.state_dict())
        elif epoch - best_epoch >= recipe.patience:
            break
    model.load_state_dict(best_weights)
    return model.eval()
