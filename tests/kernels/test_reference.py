"""The reference maths against definitions written out value by value, and against torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from osslo.kernels import formats
from osslo.kernels import reference as kernels

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0, 1, 63, 126, 127, 128, 200, 252])
def test_mxfp4_decodes_every_code_at_its_place(scale: int) -> None:
    blocks = np.arange(16, dtype=np.uint8) | (np.arange(15, -1, -1, dtype=np.uint8) << 4)
    decoded = formats.mxfp4_decode(blocks[None], np.array([scale], np.uint8))
    signed = E2M1 + [-value for value in E2M1]
    wanted = [v for code in range(16) for v in (signed[code], signed[15 - code])]
    assert decoded.dtype == np.float32
    assert decoded.tolist() == [math.ldexp(value, scale - 127) for value in wanted]


def test_e8m0_ends_are_exact() -> None:
    values = formats.e8m0_values()
    assert float(values[0]) == 2.0**-127
    assert float(values[254]) == 2.0**127
    assert np.isnan(values[255])


@given(st.lists(st.floats(-100, 100, width=32), min_size=32, max_size=32))
def test_mxfp4_encodes_to_the_nearest_code(values: list[float]) -> None:
    x = np.array(values, np.float32)
    blocks, scales = formats.mxfp4_encode(x)
    decoded = formats.mxfp4_decode(blocks, scales)
    step = math.ldexp(1.0, int(scales[0]) - 127)
    grid = np.array([sign * value * step for value in E2M1 for sign in (1, -1)])
    nearest = np.abs(x[:, None] - grid).min(axis=1)
    np.testing.assert_allclose(np.abs(x - decoded), nearest, rtol=1e-6, atol=0)
    again = formats.mxfp4_decode(*formats.mxfp4_encode(decoded))
    assert again.tolist() == decoded.tolist()


def test_mxfp4_ties_go_to_the_even_mantissa() -> None:
    x = np.zeros(32, np.float32)
    x[:8] = [6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    decoded = formats.mxfp4_decode(*formats.mxfp4_encode(x))
    assert decoded[:8].tolist() == [6.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]


def test_mxfp4_of_zeros_and_of_the_smallest() -> None:
    for tiny in (0.0, 2.0**-128, 2.0**-149):
        x = np.full(32, tiny, np.float32)
        decoded = formats.mxfp4_decode(*formats.mxfp4_encode(x))
        assert abs(float(decoded[0]) - tiny) <= 2.0**-129


@example([0.0] * 63 + [3.56052e-40])
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=64, max_size=64))
def test_q8_is_within_half_a_step(values: list[float]) -> None:
    x = np.array(values, np.float32).reshape(1, 64)
    integers, scales = formats.q8_encode(x)
    exact = np.abs(x.reshape(2, 32)).max(axis=1) / 127
    error = np.abs(formats.q8_decode(integers, scales) - x).reshape(2, 32).max(axis=1)
    # half a step, and what float16 rounds off the scale (absolutely where it is subnormal)
    assert (error <= exact * (0.5 + 127 * 2.0**-11) * 1.001 + 127 * 2.0**-25).all()


def test_q8_of_powers_of_two_times_integers_is_exact() -> None:
    integers = np.random.default_rng(1).integers(-127, 128, (4, 64)).astype(np.int8)
    integers[:, ::32] = 127
    x = np.ldexp(integers.astype(np.float32), -9)
    encoded, scales = formats.q8_encode(x)
    assert (encoded == integers).all()
    assert (formats.q8_decode(encoded, scales) == x).all()


def test_bf16_is_torch_s() -> None:
    special = np.array([0.0, -0.0, np.inf, -np.inf, 1e-40, 3.4e38, 1.00390625, 1.01171875])
    x = np.concatenate([normal(1000), special.astype(np.float32)])
    theirs = torch.from_numpy(x).to(torch.bfloat16)
    bits = formats.bf16_encode(x)
    assert (bits.view(np.int16) == theirs.view(torch.int16).numpy()).all()
    assert (formats.bf16_decode(bits) == theirs.float().numpy()).all()
    assert np.isnan(formats.bf16_decode(formats.bf16_encode(np.array([np.nan], np.float32)))).all()


# --- matrix products ------------------------------------------------------------------------------


def test_activations_are_rounded_half_to_even() -> None:
    x = np.zeros((1, 64), np.float32)
    x[0, :6] = [127.0, 0.5, 1.5, -2.5, 126.4, -127.0]
    integers, scales, _ = kernels.quantize_activations_int8(x)
    assert integers[0, :6].tolist() == [127, 0, 2, -2, 126, -127]
    assert integers.dtype == np.int8
    assert scales.tolist() == [[1.0, 0.0]]  # the second block is zeros


def test_mxfp4_integers_are_the_exact_value() -> None:
    rng = np.random.default_rng(2)
    blocks = rng.integers(0, 256, (5, 3, 16), np.uint8)
    scales = rng.integers(0, 240, (5, 3), np.uint8)
    integers, halves = kernels.mxfp4_integers(blocks, scales)
    assert integers.dtype == np.int8
    product = integers.reshape(5, 3, 32) * halves[..., None]
    assert (product.reshape(5, 96) == formats.mxfp4_decode(blocks, scales)).all()


def test_integer_matmul_is_the_product_of_what_the_integers_stand_for() -> None:
    x_integers, x_scales = kernels.quantize_activations_int16(normal(7, 96))
    w_integers, w_halves = formats.q8_encode(normal(11, 96, seed=1))
    w_scales = w_halves.astype(np.float32)
    ours = kernels.integer_matmul(x_integers, x_scales, w_integers, w_scales)
    x = x_integers.astype(np.float64) * np.repeat(x_scales, 32, axis=1)
    w = w_integers.astype(np.float64) * np.repeat(w_scales, 32, axis=1)
    np.testing.assert_allclose(ours, x @ w.T, rtol=1e-5, atol=1e-5)
    assert ours.dtype == np.float32


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    x, weight = normal(9, 96), normal(33, 96, seed=1)
    whole = kernels.matmul(x, weight)
    for row in range(9):
        assert (kernels.matmul(x[[row]], weight)[0] == whole[row]).all()
    np.testing.assert_allclose(whole, x @ weight.T, rtol=1e-5, atol=1e-5)


# --- the rest of a layer --------------------------------------------------------------------------


def test_rms_norm() -> None:
    x, weight = normal(3, 40), normal(40, seed=1)
    theirs = torch.nn.functional.rms_norm(
        torch.from_numpy(x), (40,), torch.from_numpy(weight), eps=1e-5
    )
    np.testing.assert_allclose(kernels.rms_norm(x, weight, 1e-5), theirs.numpy(), rtol=2e-6)


def test_rope_turns_each_pair_of_halves() -> None:
    x = normal(3, 2, 8)
    frequencies = np.array([1.0, 0.25, 2.0**-7, 0.0], np.float32)  # exact products
    positions = np.array([0, 5, 1000], np.int32)
    turned = kernels.rope(x, positions, frequencies, 1.25)
    pairs = x[..., :4] + 1j * x[..., 4:]
    angles = positions[:, None] * frequencies.astype(np.float64)
    wanted = 1.25 * pairs * np.exp(1j * angles)[:, None]
    np.testing.assert_allclose(turned[..., :4], wanted.real, atol=1e-5)
    np.testing.assert_allclose(turned[..., 4:], wanted.imag, atol=1e-5)


@pytest.mark.parametrize("window", [0, 1, 4, 100])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (5, 1)])
def test_attention_is_a_softmax_with_a_sink(window: int, heads: int, groups: int) -> None:
    query, key, value = normal(3, heads, 8), normal(12, groups, 8, seed=1), normal(12, groups, 8)
    sinks = normal(heads, seed=2)
    positions = np.array([17, 20, 21], np.int32)  # keys stand at 10 to 21
    ours = kernels.attention(
        query, key, value, sinks, query_positions=positions, first_key_position=10, window=window
    )
    for row, position in enumerate(positions):
        first = max(10, position - window + 1) if window else 10
        seen = range(first - 10, position + 1 - 10)
        for head in range(heads):
            group = head // (heads // groups)
            scores = [float(query[row, head] @ key[n, group]) / math.sqrt(8) for n in seen]
            total = sum(map(math.exp, scores)) + math.exp(float(sinks[head]))
            wanted = sum(
                math.exp(s) / total * value[n, group] for n, s in zip(seen, scores, strict=True)
            )
            np.testing.assert_allclose(ours[row, head], wanted, rtol=1e-4, atol=1e-6)


def test_attention_survives_large_scores() -> None:
    query = np.full((1, 1, 4), 1e4, np.float32)
    key, value = np.ones((2, 1, 4), np.float32), np.ones((2, 1, 4), np.float32)
    position = np.array([1], np.int32)
    for sink, wanted in ((0.0, 1.0), (1e9, 0.0)):
        sinks = np.array([sink], np.float32)
        ours = kernels.attention(query, key, value, sinks, query_positions=position)
        np.testing.assert_allclose(ours, wanted)


def test_routing_takes_the_largest_and_the_lowest_of_equals() -> None:
    logits = np.array([[1.0, 3.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]], np.float32)
    experts, weights = kernels.route(logits, 2)
    assert experts.tolist() == [[1, 2], [0, 1]]
    assert weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    experts, weights = kernels.route(logits, 4)
    assert experts[0].tolist() == [1, 2, 4, 3]
    theirs = torch.softmax(torch.tensor([3.0, 3.0, 3.0, 2.0]), 0)
    np.testing.assert_allclose(weights[0], theirs.numpy(), rtol=1e-6)


def test_clamped_swiglu_value_by_value() -> None:
    gates = np.array([-1e4, -100.0, -1.0, 0.0, 1.0, 6.9, 7.0, 100.0], np.float32)
    ups = np.array([-100.0, -7.0, -1.0, 0.0, 0.5, 7.0, 7.5, 1e4], np.float32)
    gate, up = (values.ravel() for values in np.meshgrid(gates, ups))
    ours = kernels.clamped_swiglu(gate, up, 7.0, 1.702)
    for raw_gate, raw_up, found in zip(gate.tolist(), up.tolist(), ours.tolist(), strict=True):
        g, u = min(raw_gate, 7.0), max(-7.0, min(raw_up, 7.0))
        sigmoid = 1 / (1 + math.exp(-1.702 * g)) if g > -400 else 0.0
        assert found == pytest.approx(g * sigmoid * (u + 1), rel=1e-5, abs=1e-30)
