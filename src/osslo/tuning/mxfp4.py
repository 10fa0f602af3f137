"""MXFP4 in torch: products with packed experts, and rounding that gradients pass through.

The numbers are those of `kernels.formats`; `tests/tuning` compares them bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch

from osslo.kernels import formats


def decode(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """u8 `[R, B, 16]` with scales u8 `[R, B]`: `[R, B * 32]`."""
    table = torch.tensor(formats.e2m1_values(), device=blocks.device)
    codes = torch.stack([blocks & 15, blocks >> 4], dim=-1).flatten(-2)
    values = torch.ldexp(table[codes.long()], scales.to(torch.int32)[..., None] - 127)
    return values.flatten(-2).to(dtype)


def rounded(values: torch.Tensor) -> torch.Tensor:
    """`[..., 32 * B]` as MXFP4 would give them back, in the same shape and type."""
    grouped = values.float().reshape(*values.shape[:-1], -1, formats.BLOCK)
    largest = grouped.abs().amax(dim=-1, keepdim=True)
    exponent = torch.frexp(largest)[1] - 3  # E2M1's largest exponent is 2, frexp counts one more
    exponent = torch.where(largest > 0, exponent, 0).clamp(-127, 127)
    scaled = torch.ldexp(grouped, -exponent)
    magnitude = scaled.abs()
    # E2M1 has one bit of mantissa: steps of a half below 2, of 1 below 4, of 2 above.
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
    nearest = (torch.round(magnitude / step) * step).clamp(max=6.0)
    signed = torch.copysign(nearest, scaled)
    return torch.ldexp(signed, exponent).flatten(-2).to(values.dtype)


class _StraightThrough(torch.autograd.Function):
    """`rounded` forward; backward as if nothing had been rounded."""

    @staticmethod
    def forward(_context: Any, values: torch.Tensor) -> torch.Tensor:
        return rounded(values)

    @staticmethod
    def backward(_context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


class _PackedLinear(torch.autograd.Function):
    """`x @ W.T` with W frozen in MXFP4, decoded when it is needed and then forgotten."""

    @staticmethod
    def forward(
        context: Any, inputs: torch.Tensor, blocks: torch.Tensor, scales: torch.Tensor
    ) -> torch.Tensor:
        context.save_for_backward(blocks, scales)
        return inputs @ decode(blocks, scales, inputs.dtype).T

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        blocks, scales = context.saved_tensors
        gradient = gradients[0]
        return gradient @ decode(blocks, scales, gradient.dtype), None, None


def straight_through(values: torch.Tensor) -> torch.Tensor:
    """`rounded`, with the gradient of the identity."""
    apply: Any = _StraightThrough.apply
    result: torch.Tensor = apply(values)
    return result


def packed_linear(inputs: torch.Tensor, blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """`[n, in]` by a frozen MXFP4 matrix of `out` rows: `[n, out]`."""
    apply: Any = _PackedLinear.apply
    result: torch.Tensor = apply(inputs, blocks, scales)
    return result
