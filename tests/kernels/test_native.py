"""Every native kernel against its NumPy reference, on every instruction set this CPU has.

Sizes run over whole and partial blocks, panels and tiles. Instruction sets must agree bit for bit.
"""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from osslo.kernels import _native, formats, panels, reference
from osslo.kernels.panels import WeightKind, panel_bytes

SETS = _native.available_kernels()
ROWS = (1, 7, 8, 9, 40)
COLUMNS = (32, 64, 96, 2880)
TOKENS = (1, 3, 4, 5, 67)


def normal(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mxfp4(seed: int, rows: int, columns: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (rows, columns // 32, 16), dtype=np.uint8)
    return blocks, random.integers(118, 132, (rows, columns // 32), dtype=np.uint8)


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("rows", "columns", "tokens"), list(product(ROWS, COLUMNS, TOKENS)))
def test_int8_mxfp4_product(rows: int, columns: int, tokens: int) -> None:
    blocks, scales = mxfp4(rows, rows, columns)
    x = normal(tokens, tokens, columns)
    x[:, 5::64] *= 50  # an outlier in every second block
    integers, x_scales, outliers = reference.quantize_activations_int8(x)
    assert outliers.any()
    assert not outliers.all()
    expected = reference.integer_matmul(
        integers, x_scales, *reference.mxfp4_integers(blocks, scales), outliers
    )
    packed = panels.pack_mxfp4(blocks, scales)
    assert packed.nbytes == panel_bytes(WeightKind.MXFP4, rows, columns)
    results = [
        _native.matmul(isa, WeightKind.MXFP4, rows, packed, x, quantized=True) for isa in SETS
    ]
    # Sums of up to 90 float32 terms, in the same order but fused: a few units in the last place.
    assert relative_error(results[0], expected) < 2e-6
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize(("rows", "columns", "tokens"), list(product(ROWS, COLUMNS, TOKENS)))
def test_int16_q8_product(rows: int, columns: int, tokens: int) -> None:
    values, bits = panels.quantize_q8(normal(rows, rows, columns))
    x = normal(tokens, tokens, columns)
    expected = reference.integer_matmul(
        *reference.quantize_activations_int16(x), values, bits.view(np.float16).astype(np.float32)
    )
    packed = panels.pack_q8(values, bits)
    assert packed.nbytes == panel_bytes(WeightKind.Q8, rows, columns)
    results = [_native.matmul(isa, WeightKind.Q8, rows, packed, x, quantized=True) for isa in SETS]
    assert relative_error(results[0], expected) < 2e-6
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize(
    ("rows", "columns", "tokens"), list(product(ROWS, (32, 33, 100, 2880), (1, 6)))
)
@pytest.mark.parametrize("kind", [WeightKind.BF16, WeightKind.F32, WeightKind.Q8])
def test_float_products_at_any_width(
    kind: WeightKind, rows: int, columns: int, tokens: int
) -> None:
    weight, x = normal(rows, rows, columns), normal(tokens, tokens, columns)
    match kind:
        case WeightKind.BF16:
            bits = formats.bf16_encode(weight)
            weight, packed = formats.bf16_decode(bits), panels.pack_bf16(bits)
        case WeightKind.F32:
            packed = panels.pack_f32(weight)
        case _:
            values, scale_bits = panels.quantize_q8(weight)
            scales = np.repeat(scale_bits.view(np.float16).astype(np.float32), 32, axis=1)
            weight, packed = values * scales[:, :columns], panels.pack_q8(values, scale_bits)
    assert packed.nbytes == panel_bytes(kind, rows, columns)
    expected = (x.astype(np.float64) @ weight.T.astype(np.float64)).astype(np.float32)
    results = [_native.matmul(isa, kind, rows, packed, x, quantized=False) for isa in SETS]
    # 2,880 float32 terms summed in one chain.
    assert relative_error(results[0], expected) < 1e-5
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5, 8, 15, 16, 33, 64])
@pytest.mark.parametrize(("rows", "columns", "tokens"), [(8, 32, 1), (5, 33, 3), (43, 100, 9)])
@pytest.mark.parametrize("bf16", [False, True])
def test_low_rank_delta(rank: int, rows: int, columns: int, tokens: int, *, bf16: bool) -> None:
    a, b = normal(rank, rank, columns), normal(rows, rows, rank)
    x, base = normal(tokens, tokens, columns), normal(7, tokens, rows)
    if bf16:
        bits = formats.bf16_encode(a), formats.bf16_encode(b)
        a, b = formats.bf16_decode(bits[0]), formats.bf16_decode(bits[1])
        add = partial(_native.low_rank_bf16, a=bits[0], b=bits[1])
    else:
        add = partial(_native.low_rank_f32, a=a, b=b)
    exact = base + (x.astype(np.float64) @ a.T) * 1.7 @ b.T
    expected = base + reference.low_rank(x, a, b, 1.7)
    results = [add(isa, scale=1.7, x=x, base=base, share=share) for isa in SETS for share in (1, 9)]
    # At most 100 and then 64 float32 terms, each in a chain.
    assert relative_error(results[0], exact.astype(np.float32)) < 3e-6
    assert relative_error(results[0], expected) < 3e-6
    assert all(np.array_equal(result, results[0]) for result in results)
    alone = add(SETS[0], scale=1.7, x=x[-1:], base=base[-1:], share=2)
    np.testing.assert_array_equal(alone[0], results[0][-1])


@pytest.mark.parametrize("exponent", [0, 1, 2, 127, 251])
def test_mxfp4_keeps_extreme_scales(exponent: int) -> None:
    blocks, scales = mxfp4(1, 8, 32)
    scales[:] = exponent
    x = np.zeros((1, 32), np.float32)
    x[0, 5] = 1.0
    packed = panels.pack_mxfp4(blocks, scales)
    expected = formats.mxfp4_decode(blocks, scales)[:, 5]
    for isa in SETS:
        found = _native.matmul(isa, WeightKind.MXFP4, 8, packed, x, quantized=False)
        np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize("tokens", [2, 5, 64, 65, 130])
def test_a_row_has_the_same_bits_alone_and_in_a_batch(tokens: int) -> None:
    blocks, scales = mxfp4(3, 24, 320)
    packed = panels.pack_mxfp4(blocks, scales)
    x = normal(tokens, tokens, 320)
    whole = _native.matmul("", WeightKind.MXFP4, 24, packed, x, quantized=True)
    for i in range(tokens):
        alone = _native.matmul("", WeightKind.MXFP4, 24, packed, x[i : i + 1], quantized=True)
        np.testing.assert_array_equal(alone[0], whole[i])


def in_blocks(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.pad(x, (0, -len(x) % 32))[None]


@pytest.mark.parametrize("columns", [1, 31, 32, 33, 64, 90, 2880])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
@pytest.mark.parametrize("power", [1, 9])
def test_quantize_int8(columns: int, scale: float, power: int) -> None:
    """High powers of a normal distribution have heavy tails: many blocks get an outlier."""
    x = normal(columns, columns) ** np.float32(power) * np.float32(scale)
    expected = reference.quantize_activations_int8(in_blocks(x))
    for isa in SETS:
        values, scales, offsets, outliers = _native.quantize_int8(isa, x)
        for found, wanted in zip((values, scales, outliers), expected, strict=True):
            np.testing.assert_array_equal(found, wanted[0])
        # Columns 4k and 4k + 1 of a block, and the others.
        sums = values.reshape(-1, 8, 2, 2).sum(axis=(1, 3), dtype=np.int32)
        np.testing.assert_array_equal(offsets.view(np.int16).reshape(-1, 2), 12 * sums)


@pytest.mark.parametrize("columns", [1, 31, 32, 33, 90, 2880])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_quantize_int16(columns: int, scale: float) -> None:
    x = normal(columns, columns) * np.float32(scale)
    expected = reference.quantize_activations_int16(in_blocks(x))
    for isa in SETS:
        for found, wanted in zip(_native.quantize_int16(isa, x), expected, strict=True):
            np.testing.assert_array_equal(found, wanted[0])


def test_two_equal_largest_values_are_no_outlier() -> None:
    x = np.full(32, 0.001, np.float32)
    x[3], x[20] = 4.0, -4.0
    for isa in SETS:
        values, _, _, outliers = _native.quantize_int8(isa, x)
        assert not outliers.any()
        assert (values[3], values[20]) == (127, -127)


@pytest.mark.parametrize("column", range(32))
def test_an_outlier_reaches_its_own_column(column: int) -> None:
    blocks, scales = mxfp4(2, 9, 64)
    x = np.zeros((1, 64), np.float32)
    x[0, 32 + column] = 100.0
    packed = panels.pack_mxfp4(blocks, scales)
    expected = formats.mxfp4_decode(blocks, scales)[:, 32 + column] * np.float32(100)
    for isa in SETS:
        found = _native.matmul(isa, WeightKind.MXFP4, 9, packed, x, quantized=True)
        np.testing.assert_array_equal(found[0], expected)


def test_quantize_takes_a_block_of_zeros() -> None:
    zeros = np.zeros(32, np.float32)
    for isa in SETS:
        for array in (*_native.quantize_int8(isa, zeros), *_native.quantize_int16(isa, zeros)):
            assert not array.any()


@pytest.mark.parametrize("n", [1, 7, 8, 9, 16, 17, 2880])
def test_rms_norm(n: int) -> None:
    x, weight = normal(n, n), normal(n + 1, n)
    expected = reference.rms_norm(x, weight, 1e-5)
    results = [_native.rms_norm(isa, x, weight, 1e-5) for isa in SETS]
    np.testing.assert_allclose(results[0], expected, rtol=2e-6)
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 31, 64])
@pytest.mark.parametrize("limit", [7.0, 1e4])
def test_swiglu(n: int, limit: float) -> None:
    gate, up = normal(n, n) * 12, normal(n + 1, n) * 12
    laid = np.zeros((-(-n // 8), 2, 8), np.float32)
    for side, rows in enumerate((gate, up)):
        padded = np.zeros(laid.shape[0] * 8, np.float32)
        padded[:n] = rows
        laid[:, side] = padded.reshape(-1, 8)
    expected = reference.clamped_swiglu(gate, up, limit, 1.702)
    results = [_native.swiglu(isa, laid.reshape(-1), n, 1.702, limit) for isa in SETS]
    np.testing.assert_allclose(results[0], expected, rtol=1e-6, atol=1e-30)
    assert all(np.array_equal(result, results[0]) for result in results)


def attention_case(
    seed: int, rows: int, head_dim: int, positions: int, window: int
) -> tuple[NDArray[np.float32], ...]:
    random = np.random.default_rng(seed)
    last = random.integers(1, positions + 1, rows).astype(np.int32)
    first = np.maximum(0, last - window).astype(np.int32) if window else np.zeros_like(last)
    return (
        normal(seed, rows, head_dim),
        normal(seed + 1, positions, head_dim),
        normal(seed + 2, positions, head_dim),
        first,
        last,
        normal(seed + 3, rows),
    )


@pytest.mark.parametrize(
    ("rows", "head_dim", "positions", "window"),
    [
        (8, 64, 200, 0),
        (8, 64, 200, 128),
        (1, 8, 1, 0),
        (3, 16, 33, 5),
        (5, 24, 64, 1),
        (7, 64, 31, 0),
    ],
)
def test_attention(rows: int, head_dim: int, positions: int, window: int) -> None:
    query, keys, values, first, last, sink = attention_case(rows, rows, head_dim, positions, window)
    expected = np.stack(
        [
            reference.attention(
                # The kernel's queries come scaled; the reference scales by 1 / sqrt(D) itself.
                query[r][None, None] * np.float32(np.sqrt(head_dim)),
                keys[first[r] : last[r], None],
                values[first[r] : last[r], None],
                sink[r : r + 1],
                query_positions=np.array([last[r] - 1], np.int32),
                first_key_position=int(first[r]),
            )[0, 0]
            for r in range(rows)
        ]
    )
    for half, tolerance in ((False, 3e-6), (True, 5e-3)):
        results = [
            _native.attention(isa, query, keys, values, first, last, sink, half=half)
            for isa in SETS
        ]
        np.testing.assert_allclose(results[0], expected, atol=tolerance)
        assert all(np.array_equal(result, results[0]) for result in results)


def test_attention_rows_do_not_depend_on_their_neighbours() -> None:
    query, keys, values, first, last, sink = attention_case(9, 8, 64, 150, 40)
    whole = _native.attention("", query, keys, values, first, last, sink, half=True)
    for r in range(8):
        one = slice(r, r + 1)
        alone = _native.attention(
            "", query[one], keys, values, first[one], last[one], sink[one], half=True
        )
        np.testing.assert_array_equal(alone[0], whole[r])


def test_unknown_kernels_are_named() -> None:
    with pytest.raises(ValueError, match=r"no kernels named 'sse9'.*available: .*scalar"):
        _native.quantize_int8("sse9", np.zeros(32, np.float32))


def test_wrong_panels_are_refused() -> None:
    x = np.zeros((1, 64), np.float32)
    with pytest.raises(ValueError, match="size of this matrix"):
        _native.matmul("", WeightKind.MXFP4, 8, np.zeros(10, np.uint8), x, quantized=True)
