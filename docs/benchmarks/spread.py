"""What lists are like if a code gets less likely with each item below it that is listed already.

Greedy lists of histories that are new to the target stay too long below one code: its worth should fall once its best
items are listed, and falls too little. Here the logit of a code falls by PENALTY for each listed item below it as well.

    python docs/benchmarks/spread.py BUNDLE DATASET [--users 4000] [--penalties 0,0.1,0.25,0.5] [--exclude-seen]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from service.catalog.bundle import Bundle
from service.catalog.items import Catalogue
from service.catalog.layout import TokenLayout
from service.catalog.window import window
from service.data.dataset import Dataset
from service.data.split import LeaveOneOut
from service.evaluation.metrics import ranking_metrics
from service.model.target import load_target, pick_device, pick_dtype

NUM_ITEMS, AT_ONCE = 10, 256


class Writer:
    """Writes lists, a token of all of them at a time."""

    def __init__(self, model: PreTrainedModel, catalogue: Catalogue, layout: TokenLayout) -> None:
        self._model, self._layout, self._codes = model, layout, catalogue.codes
        self._device = model.device
        self._table = torch.as_tensor(layout.table.clip(min=0), device=self._device)
        rows = torch.arange(len(catalogue), device=self._device)
        self._of_item = torch.as_tensor(catalogue.codes.astype(np.int64), device=self._device)
        # [L, num_items, codes]: the code of each item at each level.
        self._is_code = torch.zeros(
            layout.num_levels, len(catalogue), layout.table.shape[1], device=self._device
        )
        for level in range(layout.num_levels):
            self._is_code[level, rows, self._of_item[:, level]] = 1.0

    def write(
        self, histories: list[list[int]], excluded: list[list[int]], penalties: list[float]
    ) -> torch.Tensor:
        """Rows [batch, NUM_ITEMS] for histories of rows, given each level's penalty."""
        prompts = [self._layout.prompt(self._codes[history]) for history in histories]
        longest = max(map(len, prompts))
        tokens = np.stack([np.pad(prompt, (longest - len(prompt), 0)) for prompt in prompts])
        self._seen = torch.tensor(
            [[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self._device
        )
        self._cache = DynamicCache(config=self._model.config)
        logits = self._next(torch.as_tensor(tokens, device=self._device))
        free = torch.ones(len(prompts), len(self._codes), device=self._device)
        for row, rows in enumerate(excluded):
            free[row, rows] = 0
        listed, lists = torch.zeros_like(free), []
        for _ in range(NUM_ITEMS):
            below, listed_below = free, listed
            for level, penalty in enumerate(penalties):
                allowed = below @ self._is_code[level] > 0
                worth = logits.gather(1, self._table[level].expand(len(prompts), -1))
                worth = worth - penalty * (listed_below @ self._is_code[level])
                code = worth.masked_fill(~allowed, -torch.inf).argmax(dim=1)
                on_path = (self._of_item[:, level] == code.unsqueeze(1)).float()
                below, listed_below = below * on_path, listed_below * on_path
                logits = self._next(self._table[level, code].unsqueeze(1))
            lists.append(below.argmax(dim=1))
            free = free.scatter(1, lists[-1].unsqueeze(1), 0.0)
            listed = listed.scatter(1, lists[-1].unsqueeze(1), 1.0)
            separators = torch.full((len(prompts), 1), self._layout.separator, device=self._device)
            logits = self._next(separators)
        return torch.stack(lists, dim=1)

    def _next(self, tokens: torch.Tensor) -> torch.Tensor:
        count = self._seen.shape[1] - tokens.shape[1]
        if self._cache.get_seq_length():
            self._seen = torch.cat((self._seen, torch.ones_like(tokens)), dim=1)
            count = self._seen.shape[1] - tokens.shape[1]
        positions = (self._seen.cumsum(dim=1) - 1).clamp(min=0)[:, count:]
        told = self._model(
            input_ids=tokens,
            attention_mask=self._seen,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        last: torch.Tensor = told.logits[:, -1].float()
        return last


@torch.inference_mode()
def main() -> None:
    """Print a line for each penalty."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--penalties", default="0,0.1,0.25,0.5")
    parser.add_argument("--levels", type=int, default=1, help="of the semantic IDs, from the first")
    parser.add_argument("--split", default="test")
    parser.add_argument("--exclude-seen", action="store_true")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    bundle, dataset = Bundle.open(given.bundle), Dataset.open(given.dataset)
    catalogue, device = bundle.read_catalogue(), pick_device(given.device)
    model = load_target(bundle.target_path, device=device, dtype=pick_dtype("auto", device))
    item_ids = dataset.items()["item_id"].to_pylist()
    row_of = np.array([catalogue.row_of(item_id) for item_id in item_ids])
    cases = LeaveOneOut(dataset.interactions()).cases(given.split)[: given.users]
    seen = [row_of[case.history].tolist() for case in cases]
    histories = [list(window(rows, bundle.manifest.decoding.max_history_items)) for rows in seen]
    excluded = seen if given.exclude_seen else [[] for _ in seen]
    targets = [int(row_of[case.target]) for case in cases]
    writer = Writer(model, catalogue, bundle.layout)
    for penalty in map(float, given.penalties.split(",")):
        penalties = [penalty if level < given.levels else 0.0 for level in range(bundle.layout.num_levels)]
        lists = torch.cat(
            [
                writer.write(histories[begin : begin + AT_ONCE], excluded[begin : begin + AT_ONCE], penalties)
                for begin in range(0, len(cases), AT_ONCE)
            ]
        ).tolist()
        first_codes = [len(set(catalogue.codes[rows, 0].tolist())) for rows in lists]
        metrics = ranking_metrics(lists, targets)
        told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        print(f"penalty {penalty}: {told}, first codes {np.mean(first_codes):.2f}", flush=True)


if __name__ == "__main__":
    main()
