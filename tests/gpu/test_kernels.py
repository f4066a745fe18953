"""The engine's Triton kernels against float64, over random shapes; what must not be read is NaN."""

import random

import pytest
import torch

from mossvl.model.xrope import rotate

pytest.importorskip("triton")
from mossvl.kernels import linear, paged, paged_prefill

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]

DEVICE = "cuda"
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
DTYPES = list(TOLERANCE)
NAN = float("nan")


def near(result, expected, dtype):
    """Compares in float64, by norm; NaN is never near."""
    assert result.dtype == dtype and result.shape == expected.shape
    error = (result.double() - expected).norm()
    assert error <= TOLERANCE[dtype] * expected.norm(), f"{error / expected.norm():.2e}"


def randn(*shape, dtype):
    return torch.randn(*shape, device=DEVICE).to(dtype)


class Sequences:
    """Keys and values of some sequences in shuffled pages, behind a table with garbage past each sequence's end.

    Pools are one layer of two, and full of NaN where no token is.

    Args:
        starts: for each sequence, the first token that is seen; what is before it is NaN and garbage, too.
    """

    def __init__(self, lengths, kv_heads, d, page, dtype, starts=None):
        self.starts = [0] * len(lengths) if starts is None else starts
        self.k = [randn(length, kv_heads, d, dtype=dtype) for length in lengths]
        self.v = [randn(length, kv_heads, d, dtype=dtype) for length in lengths]
        counts = [-(-length // page) for length in lengths]
        self.pages = iter(torch.randperm(sum(counts) + 3).tolist())
        pools = torch.full((sum(counts) + 3, 2, 2, kv_heads, page, d), NAN, dtype=dtype, device=DEVICE)
        self.pools = pools[:, 1]
        self.k_pool, self.v_pool = pools[:, 1, 0], pools[:, 1, 1]
        wide = torch.full((len(lengths) + 1, max(counts) + 5), 2**30, dtype=torch.int32, device=DEVICE)
        self.tables = wide[:, : max(counts) + 2]
        self.slots = []
        for number, (length, count) in enumerate(zip(lengths, counts, strict=True)):
            table = torch.tensor([next(self.pages) for _ in range(count)], dtype=torch.long, device=DEVICE)
            self.tables[number, :count] = table
            token = torch.arange(length, device=DEVICE)
            self.slots.append(table[token // page] * page + token % page if length else token)
            block, offset = self.slots[-1] // page, self.slots[-1] % page
            self.k_pool[block, :, offset] = self.k[number]
            self.v_pool[block, :, offset] = self.v[number]
            gone = self.starts[number]
            self.pools[block[:gone], :, :, offset[:gone]] = NAN
            self.tables[number, : gone // page] = 2**30

    def attend(self, sequence, q, visible, scale):
        """Float64: each row of q (rows, heads, d) over visible[row] tokens."""
        start = self.starts[sequence]
        k, v = self.k[sequence][start:].double(), self.v[sequence][start:].double()
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = torch.einsum("rhd,thd->hrt", q.double(), k) * scale
        hidden = torch.arange(len(k), device=DEVICE) >= visible[:, None]
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).nan_to_num(0)
        return torch.einsum("hrt,thd->rhd", weights, v)


def ints(values):
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def rope_of(rows, d, dtype):
    """cos and sin of random angles."""
    angles = torch.rand(rows, d // 2, device=DEVICE).repeat(1, 2) * 6
    return angles.cos().to(dtype), angles.sin().to(dtype)


def normed_and_rotated(x, weight, rope):
    x = x.double()
    x = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight.double()
    return rotate(x, tuple(one.double() for one in rope))


class DecodeStep:
    """One query row for each of some rows of `sequences`, over `lengths` tokens.

    If `adds`, the last of them is not in the pages yet: its place holds NaN, and the step brings keys and values.
    """

    def __init__(self, sequences, rows, lengths, heads, adds):
        _, kv_heads, self.page, d = sequences.k_pool.shape
        self.sequences, self.rows, self.lengths = sequences, list(rows), list(lengths)
        dtype, self.scale = sequences.k_pool.dtype, 0.3 * (16 / d) ** 0.5
        projected = randn(len(self.rows), (heads + 2 * kv_heads) * d + 16, dtype=dtype)
        parts = projected.split([heads * d, kv_heads * d, kv_heads * d, 16], dim=1)
        self.q, self.k, self.v = (part.unflatten(1, (-1, d)) for part in parts[:3])
        self.q_weight, self.k_weight = randn(d, dtype=dtype), randn(d, dtype=dtype)
        self.rope = rope_of(len(self.rows), d, dtype)
        self.new = paged.NewToken(self.k, self.v, self.k_weight) if adds else None
        self.arrivals = torch.zeros(len(self.rows) * kv_heads, dtype=torch.int32, device=DEVICE)
        self.table_rows, self.seen = ints(self.rows), ints(self.lengths)
        starts = [sequences.starts[row] for row in self.rows]
        self.starts = ints(starts) if any(starts) else None
        if adds:
            for row, length in zip(self.rows, self.lengths, strict=True):
                if length:
                    self.stored(row, length)[:] = NAN

    def stored(self, row, length):
        """The key and value (2, kv heads, d) of the last of `length` tokens, as a view of the pages."""
        slot = int(self.sequences.slots[row][length - 1])
        return self.sequences.pools[slot // self.page, :, :, slot % self.page]

    def run(self):
        pools = self.sequences.k_pool, self.sequences.v_pool
        return paged.decode_attention(
            self.q, self.q_weight, 1e-6, *self.rope, *pools, self.sequences.tables, self.table_rows, self.seen,
            self.scale, self.arrivals, self.new, starts=self.starts,
        )  # fmt: skip

    def expected(self):
        """The result of `run`; and the keys that it stores, if any."""
        q = normed_and_rotated(self.q, self.q_weight, self.rope)
        keys = normed_and_rotated(self.k, self.k_weight, self.rope)
        results = []
        for i, (row, length) in enumerate(zip(self.rows, self.lengths, strict=True)):
            if self.new is not None and length:
                self.sequences.k[row][length - 1] = keys[i].to(self.q.dtype)
                self.sequences.v[row][length - 1] = self.v[i]
            results.append(self.sequences.attend(row, q[i : i + 1], ints([length]), self.scale))
        return torch.cat(results), keys

    def check(self):
        expected, keys = self.expected()
        near(self.run(), expected, self.q.dtype)
        assert not self.arrivals.any()
        if self.new is None:
            return
        for i, (row, length) in enumerate(zip(self.rows, self.lengths, strict=True)):
            if length:
                stored = self.stored(row, length)
                near(stored[0], keys[i], self.q.dtype)
                assert torch.equal(stored[1], self.v[i])


@pytest.mark.parametrize("seed", range(12))
def test_store(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    dtype, d, page = rng.choice(DTYPES), rng.choice([16, 32, 128]), rng.choice([16, 32, 128])
    kv_heads, group, rows = rng.choice([1, 2, 3, 8]), rng.choice([1, 2, 4, 8]), rng.choice([1, 7, 40])
    heads = kv_heads * group
    projected = randn(rows, (heads + 2 * kv_heads) * d + 16, dtype=dtype)
    q, k, v, _ = projected.split([heads * d, kv_heads * d, kv_heads * d, 16], dim=1)
    q, k, v = (x.unflatten(1, (-1, d)) for x in (q, k, v))
    q_weight, k_weight = randn(d, dtype=dtype), randn(d, dtype=dtype)
    rope = rope_of(rows, d, rng.choice([dtype, torch.float32]))

    pages = -(-rows // page) + 2
    pools = torch.full((2, pages, kv_heads, page, d), NAN, dtype=dtype, device=DEVICE)
    slots = torch.randperm(pages * page, device=DEVICE)[:rows]
    slots[rows // 2] = -1
    slots = slots.to(rng.choice([torch.int32, torch.int64]))

    expected_q, expected_k = normed_and_rotated(q, q_weight, rope), normed_and_rotated(k, k_weight, rope)
    result = paged.store(q, k, v, q_weight, k_weight, 1e-6, *rope, *pools, slots)
    assert result.is_contiguous()
    near(result, expected_q, dtype)
    near(paged.rotate_queries(q, q_weight, 1e-6, *rope), expected_q, dtype)
    other = torch.full_like(pools, NAN)
    paged.store_keys_values(k, v, k_weight, 1e-6, *rope, *other, slots)
    written = slots >= 0
    for k_pool, v_pool in (pools, other):
        at = slots[written].long()
        near(k_pool[at // page, :, at % page], expected_k[written], dtype)
        assert torch.equal(v_pool[at // page, :, at % page], v[written])
        k_pool[at // page, :, at % page] = NAN
        v_pool[at // page, :, at % page] = NAN
        assert k_pool.isnan().all() and v_pool.isnan().all(), "written beside its slots"


@pytest.mark.parametrize("adds", [True, False], ids=["self", "cross"])
@pytest.mark.parametrize("seed", range(16))
def test_decode_attention(seed, adds):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    dtype, d, page = DTYPES[seed % 3], rng.choice([16, 32, 64, 128]), rng.choice([16, 32, 64, 128])
    kv_heads, group = rng.choice([1, 2, 8]), [1, 2, 4, 8][seed % 4]
    count = rng.choice([1, 2, 9, 40])
    stored = [rng.choice([0, 1, 2, 31, 32, 33, 64, 65, 100, 257, 1000]) for _ in range(count)]
    sequences = Sequences(stored, kv_heads, d, page, dtype)
    rows = [rng.randrange(count) for _ in range(rng.choice([1, 3, count + 5]))]
    if adds:  # A row adds to pages of its own.
        rows = rng.sample(range(count), rng.randint(1, count))
    lengths = [rng.choice([stored[row], rng.randint(0, stored[row])]) for row in rows]
    DecodeStep(sequences, rows, lengths, kv_heads * group, adds).check()


@pytest.mark.parametrize("seed", range(16))
def test_attention_to_what_is_left_of_sequences(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    dtype, d, page = DTYPES[seed % 3], rng.choice([16, 32, 64, 128]), rng.choice([16, 32, 64, 128])
    kv_heads, group = rng.choice([1, 2, 8]), [1, 2, 4, 8][seed % 4]
    starts = [rng.choice([0, 1, 15, 31, 32, 33, 64, 200, 1000]) for _ in range(rng.choice([1, 2, 9]))]
    left = [rng.choice([0, 1, 31, 33, 64, 100, 300]) for _ in starts]
    lengths = [start + one for start, one in zip(starts, left, strict=True)]
    sequences = Sequences(lengths, kv_heads, d, page, dtype, starts)
    rows = [rng.randrange(len(starts)) for _ in range(rng.choice([1, 3, 12]))]
    seen = [rng.choice([left[row], rng.randint(0, left[row])]) for row in rows]
    DecodeStep(sequences, rows, seen, kv_heads * group, adds=False).check()
    q, tiles, visible, expected = prefill_inputs(rng, sequences, left, kv_heads * group, d, dtype, 90)
    begun = torch.zeros_like(visible)
    for number, first, count in tiles.tolist():
        begun[first : first + count] = starts[number]
    for splits in (1, rng.choice([2, 8])):
        pools = sequences.k_pool, sequences.v_pool
        result = paged.prefill_attention(q, *pools, sequences.tables, tiles, visible, 0.3, splits, starts=begun)
        near(result, expected, dtype)


@pytest.mark.parametrize("adds", [True, False], ids=["self", "cross"])
@pytest.mark.parametrize("lengths", [[100_003], [100] * 120 + [100_003] + [101] * 135, [0, 0], [0] * 300 + [1]])
def test_decode_attention_of_uneven_rows(lengths, adds):
    sequences = Sequences(lengths, 2, 128, 32, torch.bfloat16)
    DecodeStep(sequences, range(len(lengths)), lengths, 8, adds).check()


def test_decode_attention_is_deterministic():
    sequences = Sequences([5000, 40, 30_000], 2, 128, 32, torch.bfloat16)
    step = DecodeStep(sequences, range(3), [5000, 40, 30_000], 8, adds=False)
    first = step.run()
    assert all(torch.equal(step.run(), first) for _ in range(50))


def prefill_inputs(rng, sequences, stored, heads, d, dtype, most):
    """Rows of some sequences in tiles: (q, tiles, visible, expected)."""
    parts, tiles, visible, start = [], [], [], 0
    for number, length in enumerate(stored):
        rows = rng.randint(0, most)
        if rng.random() < 0.4:  # the last rows of a text
            rows = min(rows, length)
            seen = list(range(length - rows + 1, length + 1))
        else:  # growing prefixes
            steps = [0, length, *(rng.randint(0, length) for _ in range(rng.randint(0, 4)))]
            seen = sorted(rng.choice(steps) for _ in range(rows))
        q = randn(rows, heads, d, dtype=dtype)
        parts.append((q, sequences.attend(number, q, ints(seen), 0.3)))
        firsts = range(0, rows, paged.TILE_ROWS)
        tiles += [(number, start + first, min(paged.TILE_ROWS, rows - first)) for first in firsts]
        visible += seen
        start += rows
    q, expected = (torch.cat(x) for x in zip(*parts, strict=True))
    return q, ints(tiles).reshape(-1, 3), ints(visible), expected


@pytest.mark.parametrize("seed", range(16))
def test_prefill_attention(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    dtype, d, page = DTYPES[seed % 3], rng.choice([16, 32, 64, 128]), rng.choice([16, 32, 64, 128])
    kv_heads, group = rng.choice([1, 2, 8]), [1, 2, 4, 8][seed % 4]
    stored = [rng.choice([0, 1, 31, 33, 100, 300]) for _ in range(rng.choice([1, 2, 5]))]
    sequences = Sequences(stored, kv_heads, d, page, dtype)
    q, tiles, visible, expected = prefill_inputs(rng, sequences, stored, kv_heads * group, d, dtype, 90)
    for splits in (1, rng.choice([2, 8])):
        result = paged.prefill_attention(
            q, sequences.k_pool, sequences.v_pool, sequences.tables, tiles, visible, 0.3, splits
        )
        near(result, expected, dtype)


def test_prefill_attention_of_few_rows_over_many_tokens():
    rng = random.Random(0)
    sequences = Sequences([100_003], 2, 128, 32, torch.bfloat16)
    q, tiles, visible, expected = prefill_inputs(rng, sequences, [100_003], 8, 128, torch.bfloat16, 30)
    splits = paged.choose_splits(len(tiles), 2, 100_003)
    pools = sequences.k_pool, sequences.v_pool
    result = paged.prefill_attention(q, *pools, sequences.tables, tiles, visible, 0.3, splits)
    near(result, expected, torch.bfloat16)


@pytest.mark.parametrize(("tiles", "longest", "splits"), [(1, 56_576, 16), (1, 100, 1), (83, 56_576, 1), (0, 0, 1)])
def test_splits_fill_the_device(tiles, longest, splits, monkeypatch):
    monkeypatch.setattr(paged_prefill, "multiprocessors", lambda device: 132)
    assert paged.choose_splits(tiles, 8, longest) == splits


@pytest.mark.parametrize("rows", [0, 1, 3, 16, 40])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "inner"), [(64, 160), (160, 64), (72, 1024), (515, 4096)])
def test_linear(rows, dtype, width, inner):
    torch.manual_seed(rows)
    x = (randn(rows, inner + 8, dtype=dtype) * 3)[:, :inner]
    weight, gate_up = randn(width, inner, dtype=dtype), randn(2 * width, inner, dtype=dtype) * inner**-0.5
    norm_weight, residual = randn(inner, dtype=dtype), randn(rows, width + 8, dtype=dtype)[:, :width]
    gate, sees = randn(1, dtype=dtype), (torch.arange(rows, device=DEVICE)[:, None] % 2).to(dtype)
    wide = x.double()
    normed = wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm_weight.double()
    product = wide @ weight.double().T

    near(linear.linear(x, weight), product, dtype)
    near(linear.norm_linear(x, norm_weight, 1e-6, weight), normed @ weight.double().T, dtype)
    first, second = (normed @ gate_up.double().T).chunk(2, dim=1)
    swiglu = torch.nn.functional.silu(first) * second
    near(linear.norm_swiglu(x, norm_weight, 1e-6, gate_up), swiglu, dtype)
    near(linear.linear_residual(x, weight, residual), residual.double() + product, dtype)
    for value in (gate, gate * 0.01, -gate):
        expected = residual.double() + value.double().tanh() * sees.double() * product
        near(linear.linear_residual(x, weight, residual, value, sees), expected, dtype)


@pytest.mark.parametrize("adds", [True, False], ids=["self", "cross"])
def test_replays_with_other_lengths(adds):
    """A step captured once serves other lengths, tables and new tokens."""
    torch.manual_seed(0)
    dtype = torch.bfloat16
    sequences = Sequences([3000, 5, 700], 2, 128, 32, dtype)
    one = DecodeStep(sequences, [0, 1, 2], [1, 1, 1], 8, adds)
    weight, norm_weight = randn(1024, 1024, dtype=dtype) / 32, randn(1024, dtype=dtype)
    residual = randn(3, 1024, dtype=dtype)

    def step():
        attended = one.run()
        x = linear.linear_residual(attended.flatten(1), weight, residual)
        return attended, linear.norm_linear(x, norm_weight, 1e-6, weight)

    one.expected()
    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attended, y = step()
    for rows, seen in (([0, 1, 2], [1, 0, 33]), ([2, 0, 1], [700, 2999, 5]), ([0, 2, 1], [3000, 64, 1])):
        for x in (one.q, one.k, one.v):
            x.normal_()
        one.rows, one.lengths = rows, seen
        one.table_rows.copy_(ints(rows))
        one.seen.copy_(ints(seen))
        attended.fill_(NAN)
        y.fill_(NAN)
        expected, _ = one.expected()
        graph.replay()
        near(attended, expected, dtype)
        x = residual.double() + expected.flatten(1) @ weight.double().T
        x = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm_weight.double()
        near(y, x @ weight.double().T, dtype)
        assert not one.arrivals.any()
