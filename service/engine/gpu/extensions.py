"""What `service.engine.extensions.ByItem` does, for greedy lists."""

import torch
import triton
import triton.language as tl

from service.engine.branches import Branches, Lists
from service.engine.constraint import NOT_ALLOWED, TrieIndex
from service.engine.gpu.sizes import items_at_once

_PART = 1024  # items that one program looks through
_MOST_KEPT = 4096  # of all parts together, among which one program finds the best


def can_extend(num_items: int, count: int) -> bool:
    """Whether the best `count` extensions by so many items are found in kernels."""
    kept = triton.next_power_of_2(count)
    return (
        count <= min(num_items, _PART)
        and triton.next_power_of_2(triton.cdiv(num_items, _PART)) * kept <= _MOST_KEPT
    )


class Candidates:
    """Memory for the candidates of all passes of a round, [batch, passes, n, ...].

    Args:
        batch: lists.
        num_passes: of the draft.
        count: candidates of each.
        most_written: items that may be completed on the way to one.
        most_tokens: of each.
        device: of all.
    """

    def __init__(
        self,
        batch: int,
        num_passes: int,
        count: int,
        most_written: int,
        most_tokens: int,
        device: torch.device,
    ) -> None:
        def ints(*shape: int) -> torch.Tensor:
            return torch.empty(batch, num_passes, count, *shape, dtype=torch.int64, device=device)

        self.branches = Branches(
            parent=ints(),
            log_probability=torch.empty(batch, num_passes, count, device=device),
            node=ints(),
            written=ints(most_written),
            slot=ints(),
            row=ints(),
            tokens=ints(most_tokens),
            nodes=ints(most_tokens),
            length=ints(),
            forced=torch.empty(batch, num_passes, count, most_tokens, dtype=torch.bool, device=device),
            end=ints(),
        )

    def of_pass(self, number: int) -> Branches:
        """Those of one pass, as views."""
        return Branches(*(getattr(self.branches, name)[:, number] for name in Branches.__slots__))


def extend_by_item(
    index: TrieIndex,
    scores: torch.Tensor,
    log_sharpness: torch.Tensor,
    leaf_begin: torch.Tensor,
    branches: Branches,
    lists: Lists,
    found: Branches,
) -> None:
    """The best extensions of branches by items, into `found`, [batch, count].

    Args:
        index: the trie.
        scores: of all items, [batch, n, num_items or more].
        log_sharpness: of a guess that begins at each slot, [num_slots].
        leaf_begin: int64 [num_items], the first row with each one's semantic ID.
        branches: [batch, n].
        lists: that they belong to.
        found: views of memory, one pass of `Candidates`.
    """
    batch, n, num_scores = scores.shape
    num_items = len(leaf_begin)
    count, num_written = found.parent.shape[1], branches.written.shape[2]
    parts, kept = triton.cdiv(num_items, _PART), triton.next_power_of_2(count)
    values = scores.new_empty(batch, n, parts, kept, dtype=torch.float32)
    rows = torch.empty_like(values, dtype=torch.int32)
    sums = scores.new_empty(batch, n, parts, 2, dtype=torch.float32)
    free, before = lists.rows.free, lists.rows.before
    _best_of_part[(batch * n, parts)](
        scores, branches.node, branches.written, branches.slot, log_sharpness,
        free, before, index.node_begin, index.node_end, leaf_begin,
        values, rows, sums,
        n, num_items, num_scores, len(log_sharpness) - 1,
        branches.node.stride(0), branches.written.stride(0), free.stride(0), num_written,
        NOT_ALLOWED, items_at_once(num_written), _PART, kept,
    )  # fmt: skip
    which = torch.empty(batch, count, dtype=torch.int64, device=scores.device)
    best_values, best_rows = values.new_empty(batch, n, kept), rows.new_empty(batch, n, kept)
    _best_of_branch[(batch, n)](
        values, rows, sums, branches.log_probability, branches.written, lists.num_wanted, best_values, best_rows,
        branches.log_probability.stride(0), branches.written.stride(0),
        n, num_written, NOT_ALLOWED, items_at_once(num_written), triton.next_power_of_2(parts), parts, kept,
    )  # fmt: skip
    _best_of_all[(batch, n)](
        best_values, best_rows, found.log_probability, found.parent, which,
        found.parent.stride(0), count, n, triton.next_power_of_2(n), kept,
    )  # fmt: skip
    _follow_items[(batch, count)](
        which, found.parent, branches.written, branches.slot, branches.end,
        before, index.node_begin, index.node_end, index.path, index.item_tokens,
        found.node, found.written, found.slot, found.row, found.tokens, found.nodes, found.length, found.forced,
        found.end,
        count, num_items, branches.slot.stride(0), branches.written.stride(0),
        found.parent.stride(0), found.written.stride(0), found.tokens.stride(0), num_written,
        index.num_levels, items_at_once(num_written), triton.next_power_of_2(index.num_levels + 1),
        num_warps=1,
    )  # fmt: skip


@triton.jit
def _ordered_bits(value):
    """An int32 that is the larger the larger the float32 is; and its own inverse, bits for bits."""
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _largest(values, lane, ALL: tl.constexpr, KEPT: tl.constexpr):
    """The largest of float32 values, falling, and where they were, int32; of equal ones the first."""
    key = (_ordered_bits(values).to(tl.int64) << 32) | (ALL - 1 - lane).to(tl.int64)
    best = tl.topk(key, KEPT)
    order = (best >> 32).to(tl.int32)
    value = tl.where(order < 0, order ^ 0x7FFFFFFF, order).to(tl.float32, bitcast=True)
    return value, (ALL - 1 - (best & 0xFFFFFFFF)).to(tl.int32)


@triton.jit(do_not_specialize=["n", "node_stride", "written_stride", "num_written"])
def _best_of_part(
    scores, node, written, slot, log_sharpness, free, before, node_begin, node_end, leaf_begin,
    values, rows, sums,
    n, num_items, num_scores, last_slot, node_stride, written_stride, free_stride, num_written,
    NOT_ALLOWED: tl.constexpr, WRITTEN: tl.constexpr, PART: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """The best items of a part of the catalogue for one branch, and what its softmax needs of the part."""
    branch, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    parts = tl.num_programs(1)
    of_list, number = branch // n, branch % n
    at_node = tl.load(node + of_list * node_stride + number)
    begin, end = tl.load(node_begin + at_node), tl.load(node_end + at_node)
    lane = tl.arange(0, PART)
    row = part * PART + lane
    allowed = (row < num_items) & (row >= begin) & (row < end)
    # Of items that share an ID the first free one stands for all.
    of_free, of_before = free + of_list * free_stride, before + of_list * (num_items + 1)
    first = tl.load(leaf_begin + row, mask=allowed, other=0)
    before_it = tl.load(of_before + row, mask=allowed, other=0)
    allowed &= tl.load(of_free + row, mask=allowed, other=0) != 0
    allowed &= before_it == tl.load(of_before + first, mask=allowed, other=0)
    for i in tl.static_range(WRITTEN):
        of_item = written + of_list * written_stride + number * num_written + i
        allowed &= row != tl.load(of_item, mask=num_written > i, other=-1)
    of_slot = tl.minimum(tl.load(slot + of_list * node_stride + number), last_slot)
    sharpness = tl.exp(tl.load(log_sharpness + of_slot).to(tl.float32))
    score = tl.load(scores + branch * num_scores + row, mask=allowed, other=0.0).to(tl.float32) * sharpness
    # Whatever was computed for lists that are nobody's: every candidate has a place in the order.
    score = tl.minimum(tl.maximum(score, NOT_ALLOWED / 10), -NOT_ALLOWED / 10)
    score = tl.where(allowed, score, NOT_ALLOWED)
    largest = tl.max(score)
    total = tl.sum(tl.where(allowed, tl.exp(score - largest), 0.0))
    out = branch * parts + part
    tl.store(sums + 2 * out, largest)
    tl.store(sums + 2 * out + 1, total)
    value, at = _largest(score, lane, PART, KEPT)
    rank = tl.arange(0, KEPT)
    tl.store(values + out * KEPT + rank, value)
    tl.store(rows + out * KEPT + rank, tl.minimum(part * PART + at, num_items - 1))


@triton.jit(do_not_specialize=["log_stride", "written_stride", "n", "num_written"])
def _best_of_branch(
    values, rows, sums, log_probability, written, num_wanted, best_values, best_rows, log_stride, written_stride, n,
    num_written, NOT_ALLOWED: tl.constexpr, WRITTEN: tl.constexpr, PARTS: tl.constexpr, NUM_PARTS: tl.constexpr,
    KEPT: tl.constexpr,
):  # fmt: skip
    """Joint log-probabilities of a branch's best items of each part, and the best of them."""
    of_list, number = tl.program_id(0).to(tl.int64), tl.program_id(1)
    branch = of_list * n + number
    part = tl.arange(0, PARTS)
    exists = part < NUM_PARTS
    of_part = sums + 2 * (branch * NUM_PARTS + part)
    largest = tl.load(of_part, mask=exists, other=NOT_ALLOWED)
    total = tl.load(of_part + 1, mask=exists, other=0.0)
    base = tl.max(largest)
    log_total = base + tl.log(tl.maximum(tl.sum(total * tl.exp(largest - base)), 1e-30))
    count = 0
    for i in tl.static_range(WRITTEN):
        row = tl.load(
            written + of_list * written_stride + number * num_written + i, mask=num_written > i, other=-1
        )
        count += (row >= 0).to(tl.int32)
    is_open = count < tl.load(num_wanted + of_list)
    lane = tl.arange(0, PARTS * KEPT)
    inside = lane < NUM_PARTS * KEPT
    value = tl.load(values + branch * NUM_PARTS * KEPT + lane, mask=inside, other=NOT_ALLOWED)
    joint = tl.load(log_probability + of_list * log_stride + number) + (value - log_total)
    joint = tl.where((value > NOT_ALLOWED / 2) & is_open, joint, 2 * NOT_ALLOWED)
    # Past the last part there is less than nothing: what is not allowed has a place before it.
    joint = tl.where(inside, joint, 4 * NOT_ALLOWED)
    best, at = _largest(joint, lane, PARTS * KEPT, KEPT)
    out = branch * KEPT + tl.arange(0, KEPT)
    tl.store(best_values + out, best)
    tl.store(best_rows + out, tl.load(rows + branch * NUM_PARTS * KEPT + at))


@triton.jit(do_not_specialize=["out_stride", "n"])
def _best_of_all(
    values, rows, best, parent, which, out_stride, count, n, BRANCHES: tl.constexpr, KEPT: tl.constexpr
):  # fmt: skip
    """How many of a list's best are better than each of one branch, which says where it goes."""
    of_list, number = tl.program_id(0).to(tl.int64), tl.program_id(1)
    own = number * KEPT + tl.arange(0, KEPT)
    lane = tl.arange(0, BRANCHES * KEPT)
    mine = tl.load(values + of_list * n * KEPT + own)
    theirs = tl.load(values + of_list * n * KEPT + lane, mask=lane < n * KEPT, other=-float("inf"))
    is_before = (theirs[None, :] == mine[:, None]) & (lane[None, :] < own[:, None])
    rank = tl.sum(((theirs[None, :] > mine[:, None]) | is_before).to(tl.int32), axis=1)
    row = tl.load(rows + of_list * n * KEPT + own)
    wins = rank < count
    tl.store(best + of_list * out_stride + rank, mine, mask=wins)
    tl.store(parent + of_list * out_stride + rank, tl.zeros([KEPT], tl.int64) + number, mask=wins)
    tl.store(which + of_list * count + rank, row.to(tl.int64), mask=wins)


@triton.jit(
    do_not_specialize=[
        "stride",
        "written_stride",
        "new_stride",
        "new_written_stride",
        "new_tokens_stride",
        "most_written",
    ],
    do_not_specialize_on_alignment=["new_forced"],
)
def _follow_items(
    which, parent, written, slot, end, before, node_begin, node_end, path, item_tokens,
    new_node, new_written, new_slot, new_row, new_tokens, new_nodes, new_length, new_forced, new_end,
    count, num_items, stride, written_stride, new_stride, new_written_stride, new_tokens_stride, most_written,
    LEVELS: tl.constexpr, WRITTEN: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """A branch that goes on along the codes of an item, to its end."""
    of_list, number = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = tl.load(which + of_list * count + number)
    of_parent = tl.load(parent + of_list * new_stride + number)
    first = tl.load(slot + of_list * stride + of_parent)
    ends = tl.load(end + of_list * stride + of_parent)
    item = tl.arange(0, WRITTEN)
    written_before = tl.load(
        written + of_list * written_stride + of_parent * most_written + item,
        mask=item < most_written,
        other=-1,
    )
    place = tl.arange(0, TOKENS)
    slots = first + place
    is_token = place <= LEVELS
    token = tl.load(item_tokens + row * (LEVELS + 1) + tl.minimum(slots, LEVELS), mask=is_token)
    is_code = slots < LEVELS
    leads_to = tl.load(path + row * (LEVELS + 1) + tl.where(is_code, slots + 1, 0), mask=is_token)
    comes_from = tl.load(path + row * (LEVELS + 1) + tl.minimum(slots, LEVELS), mask=is_token)
    of_before = before + of_list * (num_items + 1)
    left_after = _num_left(of_before, node_begin, node_end, leads_to, written_before, is_token & is_code)
    left_before = _num_left(of_before, node_begin, node_end, comes_from, written_before, is_token & is_code)
    forced = (left_after == left_before) | (slots >= LEVELS)
    out = of_list * new_stride + number
    tl.store(new_node + out, tl.load(path + row * (LEVELS + 1)))
    tl.store(new_slot + out, tl.zeros_like(first))
    tl.store(new_row + out, row)
    tl.store(new_length + out, LEVELS + 1 - first)
    tl.store(new_end + out, ends + LEVELS + 1 - first)
    out = of_list * new_tokens_stride + number * (LEVELS + 1) + place
    tl.store(new_tokens + out, token, mask=is_token)
    tl.store(new_nodes + out, leads_to, mask=is_token)
    tl.store(new_forced + out, forced, mask=is_token)
    num_written = tl.sum((written_before >= 0).to(tl.int32))
    tl.store(
        new_written + of_list * new_written_stride + number * most_written + item,
        tl.where(item == num_written, row, written_before),
        mask=item < most_written,
    )


@triton.jit
def _num_left(before, node_begin, node_end, nodes, written, exists):
    """Rows below nodes that may still be written, less those that are on the way."""
    begin = tl.load(node_begin + nodes, mask=exists, other=0)
    end = tl.load(node_end + nodes, mask=exists, other=0)
    total = tl.load(before + end, mask=exists, other=0) - tl.load(before + begin, mask=exists, other=0)
    inside = (written[None, :] >= begin[:, None]) & (written[None, :] < end[:, None])
    return total - tl.sum(inside.to(tl.int64), axis=1)
