"""The draft's passes over many branches at once, against one branch at a time, read from its beginning."""

import numpy as np
import pytest
import torch

from service.engine.branches import Branches, Lists
from service.engine.constraint import NOT_ALLOWED, FreeRows, TrieIndex
from service.engine.drafter import Drafter, News
from service.engine.sampling import Sampling
from service.engine.tree import TreeShape
from service.model.draft import Draft
from service.model.kernels import Spans
from tests.engine.conftest import Setting, random_draft

TREE = TreeShape(num_passes=4, width=3, num_candidates=5, num_places=20)
CPU = torch.device("cpu")


class Slow:
    """One branch, from the first token of the prompt, every pass from nothing."""

    def __init__(self, setting: Setting, draft: Draft, prompt: np.ndarray, pending: list[int]) -> None:
        self.setting, self.draft = setting, draft
        self.features = setting.model.base_model(torch.as_tensor(prompt)[None]).last_hidden_state
        layout = setting.layout
        tokens = torch.as_tensor([*prompt, *pending])
        slots = torch.as_tensor([*layout.next_slots(len(prompt)), *range(1, len(pending) + 1)])
        shifted = torch.cat((torch.zeros(1, 1, self.features.shape[2]), self.features[:, :-1]), dim=1)
        last = self.features[:, -1:].expand(-1, len(pending), -1)
        embedded = setting.model.get_input_embeddings()(tokens)[None]
        n = len(prompt)
        self.inputs = torch.cat(
            (
                draft.inputs(shifted, embedded[:, :n], slots[None, :n], 0),
                draft.inputs(last, embedded[:, n:], slots[None, n:], 1),
            ),
            dim=1,
        )

    def state(self) -> torch.Tensor:
        n = self.inputs.shape[1]
        positions = torch.arange(n)[None]
        mask = torch.ones(1, n, n, dtype=torch.bool).tril()
        return self.draft(self.inputs, positions, *self.draft.keys_and_values(self.inputs, positions), mask)[
            :, -1:
        ]

    def read(self, tokens: list[int], next_slot: int, step: int) -> None:
        features = self.state().expand(-1, len(tokens), -1)
        embedded = self.setting.model.get_input_embeddings()(torch.as_tensor(tokens))[None]
        slots = (next_slot - torch.arange(len(tokens) - 1, -1, -1)) % self.setting.layout.tokens_per_item
        read = self.draft.inputs(features, embedded, slots[None], step)
        self.inputs = torch.cat((self.inputs, read), dim=1)


@pytest.mark.parametrize("variant", ["none", "both", "slots"])
@torch.inference_mode()
def test_branches_are_what_each_alone_would_be(shop: Setting, variant: str) -> None:
    draft = random_draft(shop, variant)
    index = TrieIndex(shop.catalogue, shop.layout, CPU)
    code_heads = shop.model.get_output_embeddings().weight[index.token_of]
    drafter = Drafter(draft, shop.model, shop.layout, index, code_heads, (TREE,))
    prompts = [shop.layout.prompt(shop.catalogue.codes[rows]) for rows in ([3, 50, 7], [8])]
    nodes = index.path[[20, 90], 1]
    pending = [[shop.layout.code_tokens[0][code]] for code in index.node_code[nodes].tolist()]
    features = []
    for i, prompt in enumerate(prompts):
        token, count = torch.as_tensor(prompt), len(prompt)
        hidden = shop.model.base_model(token[None]).last_hidden_state
        slots = torch.as_tensor(shop.layout.next_slots(count))
        before = torch.nn.functional.pad(hidden[0, :-1], (0, 0, 1, 0))
        row, ends = torch.zeros(count, dtype=torch.int64), torch.tensor([count])
        spans = Spans(row, torch.tensor([0, count]), ends, count, has_padding=False)
        drafter.read_prompts(token, before, slots, torch.arange(count), spans, slice(i, i + 1), count)
        features.append(hidden[:, -1:])
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    one = torch.ones(2, dtype=torch.int64)
    news = News(
        tokens=torch.tensor(pending).flatten(),
        features=torch.cat(features).flatten(0, 1),
        slots=one,
        is_guess=one > 0,
        places=lengths,
        spans=Spans(torch.arange(2), torch.arange(3), lengths + 1, 1, has_padding=False),
        num_places=int(lengths.max()) + 1,
        node=nodes,
        slot=one,
        most_wanted=9,
    )
    free = torch.ones(2, len(shop.catalogue), dtype=torch.bool)
    free[:, [1, 2, 3]] = False
    rows = FreeRows.of(free)
    sampling = Sampling(torch.zeros(2), torch.ones(2), None)
    lists = Lists(rows, sampling, torch.zeros(2, dtype=torch.int64), torch.full((2,), 9))
    passes = drafter.passes(TREE, news, lists)

    extension = drafter.extension
    for i, (prompt, tokens) in enumerate(zip(prompts, pending, strict=True)):
        greedy = Sampling(torch.zeros(1), torch.ones(1), None)
        own = Lists(FreeRows.of(rows.free[i : i + 1]), greedy, lists.num_items[:1], lists.num_wanted[:1])
        for last in range(TREE.num_passes):
            for leaf in range(passes[last].parent.shape[1]):
                chain = [leaf]
                for step in range(last, 0, -1):
                    chain.insert(0, int(passes[step].parent[i, chain[0]]))
                slow = Slow(shop, draft, prompt, tokens)
                branch = Branches.start(
                    nodes[i].view(1, 1),
                    torch.tensor([[1]]),
                    torch.tensor([[len(prompt) + 1]]),
                    most_written=5,
                    most_tokens=4,
                )
                for step, which in enumerate(chain):
                    # All extensions of this branch alone; the one that was taken is among them.
                    found = extension(step + 1, branch, slow.state(), own, 200)
                    taken = passes[step]
                    read = taken.tokens[i, which, : int(taken.length[i, which])].tolist()
                    same = (found.tokens[0] == taken.tokens[i, which]).all(-1)
                    same &= found.node[0] == taken.node[i, which]
                    same &= found.row[0] == taken.row[i, which]
                    [[place]] = torch.nonzero(same & (found.log_probability[0] > NOT_ALLOWED)).tolist()
                    branch = Branches(
                        **{name: getattr(found, name)[:, place : place + 1] for name in found.__slots__}
                    )
                    slow.read(read, int(taken.slot[i, which]), step + 2)
                torch.testing.assert_close(
                    branch.log_probability[0, 0], passes[last].log_probability[i, leaf], rtol=1e-4, atol=1e-4
                )
