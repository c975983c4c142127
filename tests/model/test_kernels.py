"""What lies between a layer's matrix products: each kernel is what its docstring says, on every device there is."""

import pytest
import torch

from service.model import kernels
from service.model.attention import for_groups, grouped_attention
from service.model.kernels import (
    Spans,
    attend,
    copy_rows,
    mask_for,
    move_rows,
    rms_norm,
    rotate,
    silu_times,
)

DEVICES = ["cpu", "cuda" if torch.cuda.is_available() else "interpreter"]
TYPES = [torch.float32, torch.bfloat16, torch.float16]
# The interpreter multiplies bfloat16 as the integers that hold its bits.
MULTIPLIES = [
    (device, dtype)
    for device in DEVICES
    for dtype in TYPES
    if device != "interpreter" or dtype is not torch.bfloat16
]


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch) -> torch.device:
    """Of the tensors; without a GPU Triton's kernels are run by its interpreter."""
    torch.manual_seed(0)
    if request.param == "interpreter":
        pytest.importorskip("triton", reason="Triton is for Linux alone")
        monkeypatch.setattr(kernels, "runs_triton", lambda _: True)
        return torch.device("cpu")
    return torch.device(request.param)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Expected is in float64; what is rounded to 16 bits on the way may be off by some of its last bits."""
    limit = 1e-5 if found.dtype == torch.float32 else 1e-2
    error = (found.double().cpu() - expected.cpu()).norm() / expected.norm().cpu()
    assert error < limit


def spans_of(row: torch.Tensor, ends: list[int]) -> Spans:
    """Of lists whose tokens end there."""
    begin = torch.tensor([0, *ends], device=row.device)
    return Spans(
        row,
        begin,
        torch.full((len(ends),), 10_000, device=row.device),
        int(begin.diff().max()),
        has_padding=False,
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [32, 96, 2048])
def test_norms_and_gates(device, dtype, width: int) -> None:
    x = torch.randn(5, 3, 2 * width, device=device, dtype=dtype)
    weight = torch.randn(2 * width, device=device, dtype=dtype)
    wide, gate, up = x.double(), x[..., :width].double(), x[..., width:].double()
    normed = wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()
    assert_close(rms_norm(x, weight, 1e-5), normed)
    assert_close(silu_times(x), gate * gate.sigmoid() * up)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 8), (3, 1, 24), (8, 8, 64), (5, 0, 16)])
@pytest.mark.parametrize(("normed", "side_by_side"), [(False, False), (True, True)])
def test_heads_are_rotated_and_go_into_the_cache(
    device, dtype, heads: int, kv_heads: int, head_dim: int, normed: bool, side_by_side: bool
) -> None:
    batch, n, places = 2, 3, 10
    joined = torch.randn(batch, n, heads + 2 * kv_heads, head_dim, device=device, dtype=dtype)
    positions = torch.tensor([[5, 5, 900], [0, 1, 2]], device=device)
    goes_to = torch.tensor([[7, 2, 30], [0, 1, 9]], device=device)  # the 31st place is not there
    frequencies = (10_000.0 ** (-torch.arange(head_dim // 2) / head_dim)).to(device)
    data = torch.randn(2, batch, kv_heads, places, head_dim, device=device, dtype=dtype)
    before = data.clone()
    weights = torch.rand(2, head_dim, device=device, dtype=dtype) + 0.5
    norms = (weights[0], weights[1], 1e-6) if normed else None
    cache = (data[0], data[1], goes_to) if kv_heads else None
    if side_by_side:
        row = torch.tensor([0, 0, 0, 1, 1, 1], device=device)
        cache = cache and (data[0], data[1], goes_to.flatten())
        queries = rotate(
            joined.flatten(0, 1),
            positions.flatten(),
            frequencies,
            1.5,
            heads,
            norms,
            cache,
            spans_of(row, [3, 6]),
        ).view(batch, n, heads, head_dim)
    else:
        queries = rotate(joined, positions, frequencies, 1.5, heads, norms, cache)

    wide = joined.double().cpu()
    if normed:
        scale = (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        of_queries, of_keys = weights.double().cpu()
        by_head = torch.cat([of_queries.expand(heads, -1), of_keys.expand(kv_heads, -1)])
        wide[:, :, : heads + kv_heads] *= scale[:, :, : heads + kv_heads] * by_head
    angles = (positions.cpu().double().unsqueeze(-1) * frequencies.cpu().double()).unsqueeze(2)
    low, high = wide.chunk(2, dim=-1)
    rotated = 1.5 * torch.cat(
        (low * angles.cos() - high * angles.sin(), high * angles.cos() + low * angles.sin()), dim=-1
    )
    # Angles of hundreds are known to some five digits in float32.
    torch.testing.assert_close(
        queries.double().cpu(),
        rotated[:, :, :heads],
        rtol=0.02,
        atol=1e-3 if dtype == torch.float32 else 0.05,
    )
    expected = before.double().cpu()
    for i in range(batch):
        for j in range(n):
            place = min(int(goes_to[i, j]), places - 1)
            expected[0, i, :, place] = rotated[i, j, heads : heads + kv_heads]
            expected[1, i, :, place] = wide[i, j, heads + kv_heads :]
    torch.testing.assert_close(
        data.double().cpu(), expected, rtol=0.02, atol=1e-3 if dtype == torch.float32 else 0.05
    )


@pytest.mark.parametrize(("device", "dtype"), MULTIPLIES, indirect=["device"])
@pytest.mark.parametrize(
    ("batch", "n", "heads", "kv_heads", "head_dim", "places"),
    [(1, 1, 4, 2, 8, 5), (2, 7, 6, 2, 24, 70), (1, 80, 8, 2, 64, 130), (40, 3, 4, 4, 16, 64)],
)
def test_attention_under_any_mask(
    device, dtype, batch: int, n: int, heads: int, kv_heads: int, head_dim: int, places: int
) -> None:
    queries = torch.randn(batch, n, heads, head_dim, device=device, dtype=dtype)
    data = torch.randn(2, batch, kv_heads, places + 9, head_dim, device=device, dtype=dtype)
    keys, values = data[:, :, :, :places]  # a view, as a cache's is
    mask = torch.rand(batch, n, places, device=device) < 0.5
    mask[..., 0] = True
    scale = 0.3

    def expected() -> torch.Tensor:
        return grouped_attention(
            queries.double().transpose(1, 2),
            keys.double(),
            values.double(),
            for_groups(mask.unsqueeze(1), heads, kv_heads),
            scale,
        ).transpose(1, 2)

    found = attend(queries, keys, values, mask_for(mask, heads, kv_heads, dtype), scale)
    assert_close(found, expected())
    # Of each list some tokens alone, which may be none, side by side; and nobody looks past some place.
    counts = torch.randint(0, n + 1, (batch,), device=device)
    counts[0] = n
    ends = torch.randint(1, places + 20, (batch,), device=device)  # some say no more than what there is
    mask &= torch.arange(places, device=device) < ends[:, None, None]
    chosen = torch.arange(n, device=device) < counts.unsqueeze(1)
    begin = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    spans = Spans(chosen.nonzero()[:, 0], begin, ends, n, has_padding=False)
    prepared = mask_for(mask[chosen], heads, kv_heads, dtype, spans)
    found = attend(queries[chosen], keys, values, prepared, scale, spans)
    assert_close(found, expected()[chosen])
    lone = torch.zeros_like(mask)
    lone[..., -1] = True  # what is seen comes last, after whole blocks of what is not
    found = attend(queries, keys, values, mask_for(lone, heads, kv_heads, dtype), scale)
    last = values[:, :, -1].repeat_interleave(heads // kv_heads, dim=1)
    torch.testing.assert_close(found, last.unsqueeze(1).expand_as(found))


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_are_copied_and_nothing_else_changes(device, dtype) -> None:
    source = torch.randn(2, 3, 5, 2, 9, 24, device=device, dtype=dtype)
    target = torch.randn(2, 3, 4, 2, 300, 24, device=device, dtype=dtype)
    expected = target.clone()
    expected[:, :, [3, 0], :, :7] = source[:, :, [1, 4], :, :7]
    copy_rows(source, target, *torch.tensor([[1, 4], [3, 0]], device=device), 7)
    assert torch.equal(target, expected)
    expected[:, :, 2] = expected[:, :, 1]
    copy_rows(target, target, *torch.tensor([[1], [2]], device=device), 300)
    assert torch.equal(target, expected)


@pytest.mark.parametrize(("source", "target"), [([4], [1]), ([5, 3], [0, 1])])
def test_rows_of_many_tensors_are_moved(device, source: list[int], target: list[int]) -> None:
    parts = [
        torch.arange(6, device=device),
        torch.rand(6, 3, device=device),
        torch.rand(6, 2, 2, device=device).to(torch.bfloat16),
        torch.rand(6, 5, device=device) > 0.5,
        torch.rand(6, device=device),
    ]
    expected = [part.clone() for part in parts]
    for part in expected:
        part[target] = part[source]
    move_rows(parts, source, target)
    assert all(torch.equal(*pair) for pair in zip(parts, expected, strict=True))


def test_an_index_may_be_one_number_in_memory(device) -> None:
    joined = torch.randn(4, 3, 8, device=device)
    frequencies, zero = torch.ones(4, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    data = [torch.zeros(2, 1, 5, 8, device=device) for _ in range(4)]
    same = zero.expand(4)
    for keys, values, index in ((*data[:2], same), (*data[2:], same.clone())):
        spans = Spans(index, torch.tensor([0, 4, 4], device=device), zero.expand(2) + 5, 4, has_padding=False)
        places = torch.arange(4, device=device)
        rotate(joined, index, frequencies, 1.0, 1, None, (keys, values, places), spans)
    assert torch.equal(data[0], data[2])
    assert torch.equal(data[1], data[3])
    assert data[0][0, 0, :4].abs().sum(dim=1).min() > 0
