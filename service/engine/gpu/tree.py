"""What `service.engine.tree.grow` does."""

import torch
import triton
import triton.language as tl

from service.engine.gpu.extensions import Candidates
from service.engine.gpu.sizes import tree_places_at_once
from service.engine.tree import Trees


def grow(
    candidates: Candidates,
    root: tuple[torch.Tensor, torch.Tensor],
    num_places: int,
    least_log_probability: float,
    num_slots: int,
) -> Trees:
    """See `tree.grow`; `candidates` are of all passes."""
    branches = candidates.branches
    batch, num_passes, n, s = branches.tokens.shape
    node, slot = root
    device, total = node.device, num_passes * n * s
    num_places = min(num_places, total)

    def ints(*shape: int) -> torch.Tensor:
        return torch.empty(batch, *shape, dtype=torch.int64, device=device)

    probability = torch.empty(batch, total, device=device)
    fields = ints(6, total)  # parent, written, depth, step, slot, row
    ends = torch.empty(batch, num_passes, 4, n, dtype=torch.int64, device=device)
    end_probability = torch.empty(batch, num_passes, n, device=device)
    for number in range(num_passes):
        _merge[(batch,)](
            branches.parent, branches.log_probability, branches.length, branches.tokens, branches.forced,
            branches.row, branches.slot, slot, probability, fields, ends, end_probability,
            number, num_passes, n, total, least_log_probability, num_slots,
            s, triton.next_power_of_2(n), number > 0,
        )  # fmt: skip
    which, place_of = ints(num_places), ints(total)
    block = 32
    _rank[(batch, triton.cdiv(total, block))](
        probability, which, place_of, total, num_places, block, triton.next_power_of_2(total)
    )
    shape = (num_places + 1,)
    trees = Trees(
        token=ints(*shape),
        parent=ints(*shape),
        node=ints(*shape),
        slot=ints(*shape),
        depth=ints(*shape),
        step=ints(*shape),
        row=ints(*shape),
        written=ints(*shape, branches.written.shape[3]),
        is_guess=torch.empty(batch, *shape, dtype=torch.bool, device=device),
        is_real=torch.empty(batch, *shape, dtype=torch.bool, device=device),
        probability=torch.empty(batch, *shape, device=device),
        sees=torch.empty(batch, *shape, *shape, dtype=torch.bool, device=device),
    )
    _choose_tokens[(batch, num_places + 1)](
        which, place_of, probability, fields, branches.tokens, branches.nodes, branches.forced, branches.written,
        node, trees.token, trees.parent, trees.node, trees.slot, trees.depth, trees.step, trees.row, trees.written,
        trees.is_guess, trees.is_real, trees.probability,
        num_places, total, num_passes * n, branches.written.shape[3],
        triton.next_power_of_2(branches.written.shape[3]),
        num_warps=1,
    )  # fmt: skip
    _follow_parents[(batch, num_places + 1)](
        trees.parent,
        trees.sees,
        num_places + 1,
        num_passes * s,
        tree_places_at_once(num_places + 1),
        num_warps=1,
    )
    return trees


@triton.jit(do_not_specialize=["number", "num_passes", "total"])
def _merge(
    parent, log_probability, length, tokens, forced, row, slot, root_slot,
    probability, fields, ends, end_probability,
    number, num_passes, n, total, least, num_slots,
    S: tl.constexpr, BLOCK: tl.constexpr, HAS_PARENT: tl.constexpr,
):  # fmt: skip
    """A pass's candidates as tokens; those that begin alike share them."""
    of_list = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    exists = lane < n
    base = (of_list * num_passes + number) * n
    my_parent = tl.load(parent + base + lane, mask=exists, other=-1)
    my_log = tl.load(log_probability + base + lane, mask=exists, other=-float("inf"))
    my_length = tl.load(length + base + lane, mask=exists, other=0)
    likely = exists & (my_log > least)
    share = tl.exp(my_log)
    if HAS_PARENT:
        before = (of_list * num_passes + number - 1) * n
        of_parent = ends + before * 4 + tl.where(exists, my_parent, 0)
        parent_token = tl.load(of_parent)
        depth = tl.load(of_parent + n)
        step = tl.load(of_parent + 2 * n)
        candidate_before = tl.load(of_parent + 3 * n)
        certain = tl.load(end_probability + before + tl.where(exists, my_parent, 0))
        first_slot = tl.load(slot + before + tl.where(exists, my_parent, 0))
    else:
        parent_token = tl.zeros([BLOCK], tl.int64)
        depth, step, candidate_before = parent_token, parent_token, parent_token
        certain = tl.full([BLOCK], 1.0, tl.float32)
        first_slot = parent_token + tl.load(root_slot + of_list)
    candidate = number * n + 1 + lane.to(tl.int64)
    my_row = tl.load(row + base + lane, mask=exists, other=-1)
    # Of the other candidates, which are as columns.
    their_parent = tl.load(parent + base + lane, mask=exists, other=-2)
    alike = my_parent[:, None] == their_parent[None, :]
    end_token, end_depth, end_step, end_share = parent_token, depth, step, certain
    out = of_list * 6 * total + number * n * S + lane * S
    for j in tl.static_range(S):
        mine = tl.load(tokens + (base + lane) * S + j, mask=exists, other=-1)
        alike &= mine[:, None] == mine[None, :]
        real = likely & (j < my_length)
        seen = alike & real[None, :]
        certain = tl.minimum(certain, tl.sum(tl.where(seen, share[None, :], 0.0), axis=1))
        leader = tl.min(tl.where(seen, lane[None, :], BLOCK), axis=1)
        leads = leader == lane
        leader = tl.where(leader == BLOCK, 0, leader)
        own = number * n * S + 1 + leader.to(tl.int64) * S + j
        is_guess = tl.load(forced + (base + lane) * S + j, mask=exists, other=1) == 0
        step += is_guess.to(tl.int64)
        depth += 1
        my_slot = (first_slot + j) % num_slots
        is_last = j == my_length - 1
        tl.store(
            probability + of_list * total + number * n * S + lane * S + j,
            tl.where(real & leads, certain, 0.0),
            mask=exists,
        )
        tl.store(fields + out + j, parent_token, mask=exists)
        tl.store(fields + out + total + j, tl.where(is_last, candidate, candidate_before), mask=exists)
        tl.store(fields + out + 2 * total + j, depth, mask=exists)
        tl.store(fields + out + 3 * total + j, step, mask=exists)
        tl.store(fields + out + 4 * total + j, my_slot, mask=exists)
        tl.store(fields + out + 5 * total + j, tl.where(my_slot == num_slots - 2, my_row, -1), mask=exists)
        ends_here = is_last | ((my_length == 0) & (j == 0))
        end_token = tl.where(ends_here, own, end_token)
        end_depth = tl.where(ends_here, depth, end_depth)
        end_step = tl.where(ends_here, step, end_step)
        end_share = tl.where(ends_here, certain, end_share)
        parent_token = own
    into = ends + base * 4 + lane
    tl.store(into, end_token, mask=exists)
    tl.store(into + n, end_depth, mask=exists)
    tl.store(into + 2 * n, end_step, mask=exists)
    tl.store(into + 3 * n, candidate, mask=exists)
    tl.store(end_probability + base + lane, end_share, mask=exists)


@triton.jit(do_not_specialize=["total"])
def _rank(probability, which, place_of, total, num_places, BLOCK: tl.constexpr, ALL: tl.constexpr):
    """The order of tokens by probability, those that come first before others that are as probable."""
    of_list = tl.program_id(0).to(tl.int64)
    own = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    other = tl.arange(0, ALL)
    mine = tl.load(probability + of_list * total + own, mask=own < total, other=-1.0)
    theirs = tl.load(probability + of_list * total + other, mask=other < total, other=-1.0)
    same = (theirs[None, :] == mine[:, None]) & (other[None, :] < own[:, None])
    rank = tl.sum(((theirs[None, :] > mine[:, None]) | same).to(tl.int64), axis=1)
    has_place = (own < total) & (rank < num_places)
    tl.store(which + of_list * num_places + rank, own.to(tl.int64), mask=has_place)
    tl.store(place_of + of_list * total + own, tl.where(has_place, rank + 1, 0), mask=own < total)


@triton.jit(do_not_specialize=["total", "num_candidates"])
def _choose_tokens(
    which, place_of, probability, fields, tokens, nodes, forced, written, root,
    out_token, out_parent, out_node, out_slot, out_depth, out_step, out_row, out_written, out_guess, out_real,
    out_probability,
    num_places, total, num_candidates, num_written, WRITTEN: tl.constexpr,
):  # fmt: skip
    """One place of one tree."""
    of_list, place = tl.program_id(0).to(tl.int64), tl.program_id(1)
    out = of_list * (num_places + 1) + place
    item = tl.arange(0, WRITTEN)
    nothing = tl.zeros([WRITTEN], tl.int64) - 1
    if place == 0:
        zero = tl.load(root + of_list) * 0
        tl.store(out_token + out, zero)
        tl.store(out_parent + out, zero)
        tl.store(out_node + out, tl.load(root + of_list))
        tl.store(out_slot + out, zero)
        tl.store(out_depth + out, zero)
        tl.store(out_step + out, zero)
        tl.store(out_row + out, zero - 1)
        tl.store(out_guess + out, zero != 0)
        tl.store(out_real + out, zero == 0)
        tl.store(out_probability + out, 1.0)
        tl.store(out_written + out * num_written + item, nothing, mask=item < num_written)
    else:
        token = tl.load(which + of_list * num_places + place - 1)
        at = of_list * total + token
        field = fields + of_list * 6 * total + token
        likely = tl.load(probability + at)
        is_real = likely > 0
        parent = tl.load(field)
        has_parent = is_real & (parent > 0)
        tl.store(out_token + out, tl.load(tokens + at))
        tl.store(out_parent + out, tl.load(place_of + of_list * total + parent - 1, mask=has_parent, other=0))
        tl.store(out_node + out, tl.load(nodes + at))
        tl.store(out_slot + out, tl.load(field + 4 * total))
        tl.store(out_depth + out, tl.load(field + 2 * total))
        tl.store(out_step + out, tl.load(field + 3 * total))
        tl.store(out_row + out, tl.load(field + 5 * total))
        tl.store(out_guess + out, tl.load(forced + at) == 0)
        tl.store(out_real + out, is_real)
        tl.store(out_probability + out, likely)
        candidate = tl.load(field + total)
        rows = tl.load(
            written + (of_list * num_candidates + candidate - 1) * num_written + item,
            mask=item < tl.where(candidate > 0, num_written, 0),
            other=-1,
        )
        tl.store(out_written + out * num_written + item, rows, mask=item < num_written)


@triton.jit(do_not_specialize=["n", "depth"])
def _follow_parents(parent, sees, n, depth, BLOCK: tl.constexpr):
    """Which places one follows, or is."""
    of_list, place = tl.program_id(0).to(tl.int64), tl.program_id(1)
    other = tl.arange(0, BLOCK)
    at = place.to(tl.int64)
    seen = other == at
    for _ in range(depth):
        at = tl.load(parent + of_list * n + at)
        seen |= other == at
    tl.store(sees + (of_list * n + place) * n + other, seen, mask=other < n)
