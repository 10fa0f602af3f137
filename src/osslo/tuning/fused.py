"""LoRA layers and RMS norms with as few passes over memory as they need, for training in bfloat16.

`peft` and `transformers` write these as a dozen elementwise operations each; on a CPU that
multiplies bfloat16 in tiles those cost more than the products. The results are the same but for
rounding; parameters keep their names and places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear


def fuse(model: torch.nn.Module, compute: torch.dtype) -> None:
    """Let the LoRA layers and RMS norms of `model` compute as here; norms give `compute`.

    For layers without dropout and biases whose base matrix is frozen, and norms that do not learn;
    others stay as they are.
    """
    for module in model.modules():
        if isinstance(module, LoraLinear) and _plain(module):
            _replace(module, _lora_forward(module))
        elif type(module).__name__.endswith("RMSNorm") and not _learns(module):
            _replace(module, _norm_forward(module, compute))


def _replace(module: torch.nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
    owner: Any = module
    owner.forward = forward


def _learns(module: Any) -> bool:
    return bool(module.weight.requires_grad)


def _plain(module: Any) -> bool:
    base = module.get_base_layer()
    dropout = module.lora_dropout["default"]
    return base.bias is None and not _learns(base) and isinstance(dropout, torch.nn.Identity)


def _lora_forward(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    base, scale = module.get_base_layer(), float(module.scaling["default"])
    a, b = module.lora_A["default"], module.lora_B["default"]

    def forward(x: torch.Tensor) -> torch.Tensor:
        return _lora(x.to(base.weight.dtype), base.weight, a.weight, b.weight, scale)

    return forward


def _norm_forward(module: Any, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return _norm(x, module.weight, module.variance_epsilon, dtype)

    return forward


class _Lora(torch.autograd.Function):
    """`x W^T + scale x A^T B^T` for x `[..., in]` in the type of W; A and B are float32."""

    @staticmethod
    def forward(  # noqa: PLR0917 (torch gives them by place)
        ctx: Any, x: Any, weight: Any, a: Any, b: Any, scale: float
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low_a, low_b = a.to(flat.dtype), (b * scale).to(flat.dtype)
        inner = flat @ low_a.T
        out = flat @ weight.T
        out.addmm_(inner, low_b.T)
        ctx.save_for_backward(flat, weight, low_a, low_b, inner)
        ctx.scale = scale
        made: torch.Tensor = out.view(*x.shape[:-1], -1)
        return made

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        flat, weight, low_a, low_b, inner = ctx.saved_tensors
        out = grad.reshape(-1, grad.shape[-1]).to(flat.dtype)
        back = out @ low_b
        grad_a = (back.T @ flat).float()
        grad_b = (out.T @ inner).float() * ctx.scale
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = out @ weight
            grad_x.addmm_(back, low_a)
            grad_x = grad_x.view(*grad.shape[:-1], -1)
        return grad_x, None, grad_a, grad_b, None


class _Norm(torch.autograd.Function):
    """RMS norm of float32 `[..., n]`, given in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, eps: float, dtype: Any) -> torch.Tensor:
        root = torch.rsqrt(
            torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1] + eps
        )
        ctx.save_for_backward(x, weight, root)
        made: torch.Tensor = (x * root).mul_(weight).to(dtype)
        return made

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, weight, root = ctx.saved_tensors
        scaled = grad.float() * weight
        along = (scaled * x).mean(dim=-1, keepdim=True) * root.square()
        return (scaled - x * along).mul_(root), None, None, None


_lora: Callable[..., torch.Tensor] = _Lora.apply
_norm: Callable[..., torch.Tensor] = _Norm.apply
