"""What `FreeRows.of` counts."""

import torch
import triton
import triton.language as tl


def free_before(free: torch.Tensor) -> torch.Tensor:
    """Free rows before each row, int64 [batch, num_items + 1], of `free`, bool [batch, num_items]."""
    batch, num_items = free.shape
    before = torch.empty(batch, num_items + 1, dtype=torch.int64, device=free.device)
    block = min(16384, triton.next_power_of_2(num_items))
    _free_before[(batch,)](
        free, before, num_items, free.stride(0), block, triton.cdiv(num_items, block), num_warps=16
    )
    return before


@triton.jit
def _free_before(free, before, num_items, free_stride, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """One list."""
    of_list = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    out = before + of_list * (num_items + 1)
    total = tl.load(free + of_list * free_stride).to(tl.int64) * 0
    tl.store(out, total)
    for block in range(BLOCKS):
        row = block * BLOCK + lane
        inside = row < num_items
        is_free = tl.load(free + of_list * free_stride + row, mask=inside, other=0).to(tl.int32)
        tl.store(out + row + 1, total + tl.cumsum(is_free, axis=0).to(tl.int64), mask=inside)
        total += tl.sum(is_free).to(tl.int64)
