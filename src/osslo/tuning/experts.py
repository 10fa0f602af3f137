"""The experts as they are trained: every weight `[out, in]`, LoRA factors in PEFT's shapes.

Replaces `transformers`' expert block, whose forward PEFT would build whole weights for, one forward
at a time. Gate and up take turns in the rows of the first matrix, as in the checkpoint.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import linear

from osslo.tuning import mxfp4
from osslo.tuning.learning import LoraShape


def factors(
    rows: int, cols: int, rank: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """A `[rank, cols]` drawn as PEFT draws it, B `[rows, rank]` of zeros: no delta at first."""
    a = torch.empty(rank, cols, dtype=dtype)
    torch.nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    b = torch.zeros(rows, rank, dtype=dtype)
    return torch.nn.Parameter(a.to(device)), torch.nn.Parameter(b.to(device))


class LoraLinear(torch.nn.Module):
    """A frozen projection and its delta."""

    def __init__(self, base: torch.nn.Linear, shape: LoraShape) -> None:
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        rows, cols = base.weight.shape
        self.lora_a, self.lora_b = factors(
            rows, cols, shape.rank, torch.float32, base.weight.device
        )
        self._scale = shape.scale

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        low = linear(inputs, self.lora_a.to(inputs.dtype))
        delta = linear(low, self.lora_b.to(inputs.dtype))
        return linear(inputs, self.weight, self.bias) + delta * self._scale


class ExpertMatrices(torch.nn.Module):
    """One matrix of every expert: `weight` `[E, out, in]`, or MXFP4 `blocks` and `scales` of it.

    With `lora`, A is `[E * r, in]` and B `[out, r * E]` as PEFT stores them. With `rounding`, what
    the forward multiplies by is the weight with its delta, rounded to MXFP4.
    """

    blocks: torch.Tensor | None
    scales: torch.Tensor | None

    def __init__(
        self,
        weight: torch.Tensor | None,
        bias: torch.Tensor,
        *,
        packed: tuple[torch.Tensor, torch.Tensor] | None = None,
        lora: LoraShape | None = None,
        rounding: bool = False,
    ) -> None:
        super().__init__()
        self.weight = None if weight is None else torch.nn.Parameter(weight)
        self.bias = torch.nn.Parameter(bias)
        blocks, scales = packed or (None, None)
        self.register_buffer("blocks", blocks)
        self.register_buffer("scales", scales)
        self.requires_grad_(requires_grad=False)
        self._count, rows = bias.shape
        self._scale = 0.0 if lora is None else lora.scale
        self._rounding = rounding
        self.lora_a: torch.nn.Parameter | None = None
        self.lora_b: torch.nn.Parameter | None = None
        if lora is not None:
            self.lora_a, self.lora_b = factors(
                rows, self._cols, lora.rank * self._count, torch.float32, bias.device
            )

    @property
    def _cols(self) -> int:
        if self.scales is not None:
            return int(self.scales.shape[-1]) * 32
        return int(self._plain.shape[-1])

    @property
    def _plain(self) -> torch.Tensor:
        if self.weight is None:
            raise AssertionError("these experts are packed")
        return self.weight

    def forward(self, inputs: torch.Tensor, expert: int) -> torch.Tensor:
        """`[n, in]` through one expert: `[n, out]`."""
        delta = self._delta(expert, inputs.dtype)
        if self._rounding:
            weight = self.dense(expert, inputs.dtype)
            if delta is not None:
                weight = weight + (delta[1] @ delta[0]) * self._scale
            return linear(inputs, mxfp4.straight_through(weight)) + self.bias[expert]
        outputs = self._base(inputs, expert) + self.bias[expert]
        if delta is None:
            return outputs
        return outputs + linear(linear(inputs, delta[0]), delta[1]) * self._scale

    def dense(self, expert: int, dtype: torch.dtype) -> torch.Tensor:
        """The weight of one expert without its delta, `[out, in]`."""
        if self.blocks is not None and self.scales is not None:
            return mxfp4.decode(self.blocks[expert], self.scales[expert], dtype)
        return self._plain[expert].to(dtype)

    def _base(self, inputs: torch.Tensor, expert: int) -> torch.Tensor:
        if self.blocks is not None and self.scales is not None:
            return mxfp4.packed_linear(inputs, self.blocks[expert], self.scales[expert])
        return linear(inputs, self._plain[expert])

    def _delta(self, expert: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A `[r, in]` and B `[out, r]` of one expert."""
        if self.lora_a is None or self.lora_b is None:
            return None
        a = self.lora_a.reshape(self._count, -1, self._cols)[expert]
        b = self.lora_b.reshape(len(self.lora_b), -1, self._count)[:, :, expert]
        return a.to(dtype), b.to(dtype)


class Experts(torch.nn.Module):
    """Router and experts of one layer, in the place of `transformers`' `GptOssMLP`."""

    def __init__(
        self,
        router: torch.nn.Linear,
        gate_up: ExpertMatrices,
        down: ExpertMatrices,
        *,
        active: int,
        alpha: float,
        limit: float,
    ) -> None:
        super().__init__()
        self.router, self.gate_up, self.down = router, gate_up, down
        self._active, self._alpha, self._limit = active, alpha, limit

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[1, T, d]` to the same shape, and the routing weights `[T, active]`."""
        rows = hidden.flatten(0, 1)
        with torch.autocast(rows.device.type, enabled=False):  # near-ties must not flip an expert
            logits = linear(rows.float(), self.router.weight.float(), self.router.bias.float())
        best, chosen = torch.topk(logits, self._active, dim=-1)
        shares = torch.softmax(best, dim=-1)
        everywhere = self._active == logits.shape[-1]
        mixed = torch.zeros_like(rows)
        for expert in range(logits.shape[-1]):
            place, rank = torch.where(chosen == expert)
            if not len(place):
                continue
            share = shares[place, rank, None].to(rows.dtype)
            output = self._one(rows if everywhere else rows[place], expert) * share
            mixed = mixed + output if everywhere else mixed.index_add(0, place, output)
        return mixed.view_as(hidden), shares

    def _one(self, rows: torch.Tensor, expert: int) -> torch.Tensor:
        both = self.gate_up(rows, expert)
        gate = both[:, 0::2].clamp(max=self._limit)
        up = both[:, 1::2].clamp(-self._limit, self._limit)
        active = (up + 1) * gate * torch.sigmoid(self._alpha * gate)
        output: torch.Tensor = self.down(active, expert)
        return output
