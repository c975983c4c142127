"""What `service.engine.verify.decide` does, for greedy lists."""

import torch
import triton
import triton.language as tl

from service.engine.branches import Lists
from service.engine.constraint import DEAD, NOT_ALLOWED, ROOT_NODE, TrieIndex
from service.engine.gpu.sizes import items_at_once
from service.engine.tree import Trees
from service.engine.verify import Accepted


def decide(
    index: TrieIndex, logits: torch.Tensor, asked: torch.Tensor, trees: Trees, lists: Lists, most: int
) -> Accepted:
    """See `Steps.decide`; `logits` are those of all codes after each token, [t, L * C]."""
    batch, n = trees.node.shape
    num_written = trees.written.shape[2]
    before = lists.rows.before
    num_items = before.shape[1] - 1

    def ints(*shape: int) -> torch.Tensor:
        return torch.empty(batch, *shape, dtype=torch.int64, device=logits.device)

    def floats(*shape: int) -> torch.Tensor:
        return torch.empty(batch, *shape, dtype=torch.float32, device=logits.device)

    choice, log_p, is_lone = ints(n), floats(n), torch.empty_like(trees.is_real)
    _choose[(batch * n,)](
        logits, asked, trees.node, trees.written, before,
        index.node_begin, index.node_end, index.node_code, index.node_depth, index.child_begin,
        choice, log_p, is_lone,
        n, num_items, index.num_codes, num_written,
        index.num_levels, items_at_once(num_written), triton.next_power_of_2(index.most_children), NOT_ALLOWED,
    )  # fmt: skip
    columns = num_written + 2  # of items: those on a path, the one after it, and nobody's
    done = Accepted(
        path=ints(most),
        num_path=ints(),
        pending=ints(index.num_levels + 1),
        num_pending=ints(),
        node=ints(),
        rows=ints(columns),
        log_scores=floats(columns),
        num_rows=ints(),
        num_tokens=ints(),
        num_forced=ints(),
    )
    _accept[(batch,)](
        trees.parent, trees.node, trees.slot, trees.row, trees.written, trees.is_real,
        choice, log_p, is_lone, lists.num_wanted, before,
        index.node_begin, index.node_end, index.node_depth, index.codes, index.item_tokens, index.path,
        done.path, done.num_path, done.pending, done.num_pending, done.node, done.rows, done.log_scores,
        done.num_rows, done.num_tokens, done.num_forced,
        n, most, num_items, columns, num_written,
        index.num_levels, triton.next_power_of_2(index.num_levels + 1), triton.next_power_of_2(columns),
        triton.next_power_of_2(max(1, most)), triton.next_power_of_2(n), items_at_once(num_written),
        num_items.bit_length() + 1,
        DEAD, ROOT_NODE,
        num_warps=1,
    )  # fmt: skip
    return done


@triton.jit(do_not_specialize=["n", "num_written"])
def _choose(
    logits, asked, nodes, written, before, node_begin, node_end, node_code, node_depth, child_begin,
    choice, log_p, is_lone,
    n, num_items, num_codes, num_written,
    LEVELS: tl.constexpr, WRITTEN: tl.constexpr, CHILDREN: tl.constexpr, NOT_ALLOWED: tl.constexpr,
):  # fmt: skip
    """What the target chooses after one place."""
    at = tl.program_id(0).to(tl.int64)
    of_before = before + at // n * (num_items + 1)
    node = tl.maximum(tl.load(nodes + at), 0)
    depth = tl.minimum(tl.load(node_depth + node), LEVELS - 1)
    lane = tl.arange(0, CHILDREN)
    child = tl.load(child_begin + node) + lane
    exists = child < tl.load(child_begin + node + 1)
    begin, end = (
        tl.load(node_begin + child, mask=exists, other=0),
        tl.load(node_end + child, mask=exists, other=0),
    )
    left = tl.load(of_before + end, mask=exists, other=0) - tl.load(of_before + begin, mask=exists, other=0)
    for i in tl.static_range(WRITTEN):
        row = tl.load(written + at * num_written + i, mask=num_written > i, other=-1)
        left -= ((row >= begin) & (row < end)).to(tl.int64)
    allowed = exists & (left > 0)
    code = tl.load(node_code + child, mask=exists, other=0)
    of_place = logits + (tl.load(asked + at) * LEVELS + depth) * num_codes
    logit = tl.load(of_place + code, mask=allowed, other=0.0).to(tl.float32)
    logit = tl.where(allowed, logit, NOT_ALLOWED)
    largest = tl.max(logit)
    log_total = tl.log(tl.maximum(tl.sum(tl.where(allowed, tl.exp(logit - largest), 0.0)), 1e-30))
    of_child = tl.where(allowed, (logit - largest) - log_total, NOT_ALLOWED)
    is_best = lane == tl.argmax(of_child, axis=0)
    tl.store(choice + at, tl.sum(tl.where(is_best & exists, child, 0)))
    tl.store(log_p + at, tl.sum(tl.where(is_best, of_child, 0.0)))
    tl.store(is_lone + at, tl.sum(allowed.to(tl.int32)) == 1)


@triton.jit(do_not_specialize=["n", "most", "num_written"])
def _accept(
    parents, nodes, slots, rows_of, written, is_real, choice, choice_log_p, choice_lone, num_wanted, before,
    node_begin, node_end, node_depth, codes, item_tokens, path_of,
    path, num_path, pending, num_pending, node, rows, log_scores, num_rows, num_tokens, num_forced,
    n, most, num_items, columns, num_written,
    LEVELS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr,
    WRITTEN: tl.constexpr, STEPS: tl.constexpr, DEAD: tl.constexpr, ROOT: tl.constexpr,
):  # fmt: skip
    """Follow the target through one tree."""
    of_list = tl.program_id(0).to(tl.int64)
    place, item = tl.arange(0, BLOCK), tl.arange(0, COLUMNS)
    first_place = of_list * n
    inside = place < n
    at = first_place + place
    parent = tl.load(parents + at, mask=inside, other=-1)
    at_node = tl.load(nodes + at, mask=inside, other=DEAD)
    is_separator = tl.load(slots + at, mask=inside, other=0) == LEVELS
    real = tl.load(is_real + at, mask=inside, other=0) != 0
    wanted = tl.load(num_wanted + of_list)
    number = tl.arange(0, WRITTEN)
    on_the_way = tl.load(
        written + at[:, None] * num_written + number[None, :],
        mask=inside[:, None] & (number < num_written)[None, :],
        other=-1,
    )
    num_before = tl.sum((on_the_way >= 0).to(tl.int32), axis=1)
    chosen_there = tl.load(choice + first_place + parent, mask=inside, other=DEAD)
    as_chosen = (at_node != DEAD) & (at_node == chosen_there)
    # A list has no separator after its last item.
    separates = (at_node == ROOT) & (num_before < wanted)
    follows = real & (place > 0) & tl.where(is_separator, separates, as_chosen)

    # From the root on to the one child that the target goes to; items and scores in the order of the path.
    end = tl.zeros([], tl.int64)
    length, count, tokens, forced = end, end, end, end
    done = tl.full([COLUMNS], -1, tl.int64)
    scores = tl.zeros([COLUMNS], tl.float32)
    for column in range(MOST):
        child = tl.max(tl.where(follows & (parent == end), place, 0)).to(tl.int64)
        goes_on = child > 0
        tl.store(path + of_list * most + column, child, mask=column < most)
        is_code = goes_on & (tl.load(slots + first_place + child) < LEVELS)
        row = tl.load(rows_of + first_place + child)
        log_p = tl.load(choice_log_p + first_place + end)
        lone = is_code & (tl.load(choice_lone + first_place + end) != 0)
        scores += tl.where((item == count) & is_code, log_p, 0.0)
        completes = goes_on & (row >= 0)
        done = tl.where((item == count) & completes, row, done)
        tokens += is_code.to(tl.int64)
        forced += lone.to(tl.int64)
        count += completes.to(tl.int64)
        length += goes_on.to(tl.int64)
        end = tl.where(goes_on, child, end)
    tl.store(num_path + of_list, length)

    # Where the path ends the target's own choice follows, unless the list or an item ends there.
    last = first_place + end
    last_node = tl.load(nodes + last)
    last_slot = tl.load(node_depth + last_node)
    chooses = (last_slot < LEVELS) & (count < wanted)
    chosen = tl.where(chooses, tl.load(choice + last), last_node)
    # From there on as far as the first and the last free row below agree.
    of_before = before + of_list * (num_items + 1)
    taken = tl.where(done >= 0, tl.load(of_before + tl.maximum(done, 0)) + 1, 0)
    lowest = tl.load(of_before + tl.load(node_begin + chosen)) + 1
    highest = tl.load(of_before + tl.load(node_end + chosen))
    upwards = tl.sum(((lowest + item)[:, None] == taken[None, :]).to(tl.int32), axis=1)
    downwards = tl.sum(((highest - item)[:, None] == taken[None, :]).to(tl.int32), axis=1)
    lowest += tl.min(tl.where(upwards == 0, item, COLUMNS))
    highest -= tl.min(tl.where(downwards == 0, item, COLUMNS))
    first, first_end = lowest * 0, lowest * 0 + num_items + 1
    final, final_end = first, first_end
    for _ in tl.static_range(STEPS):
        middle = tl.minimum((first + first_end) // 2, num_items)
        is_far = tl.load(of_before + middle) >= lowest
        first, first_end = tl.where(is_far, first, middle + 1), tl.where(is_far, middle, first_end)
        middle = tl.minimum((final + final_end) // 2, num_items)
        is_far = tl.load(of_before + middle) >= highest
        final, final_end = tl.where(is_far, final, middle + 1), tl.where(is_far, middle, final_end)
    first = tl.minimum(tl.maximum(first - 1, 0), num_items - 1)
    final = tl.minimum(tl.maximum(final - 1, 0), num_items - 1)
    agree = first * 0
    agrees = first >= 0
    for level in tl.static_range(LEVELS):
        agrees &= tl.load(codes + first * LEVELS + level) == tl.load(codes + final * LEVELS + level)
        agree += agrees.to(tl.int64)
    certain = tl.where(chooses, tl.maximum(agree, last_slot + 1), last_slot)
    ends_item = chooses & (certain == LEVELS)
    tl.store(
        rows + of_list * columns + item,
        tl.where((item == count) & ends_item, first, done),
        mask=item < columns,
    )
    own_log_p = tl.where(chooses, tl.load(choice_log_p + last), 0.0)
    tl.store(
        log_scores + of_list * columns + item,
        scores + tl.where(item == count, own_log_p, 0.0),
        mask=item < columns,
    )
    own_lone = chooses & (tl.load(choice_lone + last) != 0)
    count += ends_item.to(tl.int64)
    num_chosen = tl.where(chooses, certain - last_slot, 0)
    separator = ((certain == LEVELS) & (count < wanted)).to(tl.int64)
    token = tl.arange(0, TOKENS)
    tl.store(
        pending + of_list * (LEVELS + 1) + token,
        tl.load(
            item_tokens + first * (LEVELS + 1) + tl.minimum(last_slot + token, LEVELS), mask=token <= LEVELS
        ),
        mask=token <= LEVELS,
    )
    next_node = tl.load(path_of + first * (LEVELS + 1) + certain)
    tl.store(node + of_list, tl.where(certain == LEVELS, ROOT, next_node))
    tl.store(num_pending + of_list, num_chosen + separator)
    tl.store(num_rows + of_list, count)
    tl.store(num_tokens + of_list, tokens + num_chosen + count)
    more_forced = own_lone.to(tl.int64) + tl.maximum(num_chosen - 1, 0) + count
    tl.store(num_forced + of_list, forced + more_forced)
