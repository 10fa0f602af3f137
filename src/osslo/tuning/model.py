"""The model that is trained: a backbone of `transformers`, its head, and what of it learns.

Owns how packs become losses. Where LoRA layers come from is `adapters`' subject; the loop only
sees parameters and a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from osslo.tuning.attention import NAME, layout_of
from osslo.tuning.packing import Pack


class Trainable:
    """A causal language model as the loop uses it.

    `model` is a `transformers` causal LM with LoRA layers injected or not; its attention is
    replaced by `attention.NAME`, and only its parameters with `requires_grad` learn. With `rows`,
    the embeddings and head rows of a few tokens learn beside it, and nothing else of the two big
    tables does.

    `compute` is what matrix products are computed in. With bfloat16 the frozen matrices are stored
    so too; what learns, norms, softmax, losses and the residual stream stay float32.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        rows: TokenRows | None = None,
        *,
        compute: torch.dtype = torch.float32,
    ) -> None:
        self.model = model
        self._compute = compute
        if compute is not torch.float32:
            _store_frozen(model, compute)
        self.rows = rows
        core: Any = model
        core.set_attn_implementation(NAME)
        self._core: Any = core.get_submodule("model")
        self._embedding: torch.Tensor = core.get_input_embeddings().weight
        self._head: torch.Tensor = core.get_output_embeddings().weight
        self._windows = frozenset(_windows(core.config))

    def parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Everything that learns, by name."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                yield name, parameter
        if self.rows is not None:
            for name, parameter in self.rows.named():
                yield name, parameter

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of everything that learns."""
        return {name: value.detach().clone() for name, value in self.parameters()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back what `state` gave. Raises `KeyError` for another model's state."""
        with torch.no_grad():
            for name, parameter in self.parameters():
                parameter.copy_(state[name])

    def loss(self, pack: Pack) -> torch.Tensor:
        """The summed cross-entropy (nats) of a pack's targets."""
        logits = self.logits(pack)
        targets = torch.tensor(pack.targets, device=logits.device)
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")

    def logits(self, pack: Pack) -> torch.Tensor:
        """Logits `[len(pack.rows), V]` that are to predict the targets."""
        device = self._embedding.device
        ids = torch.tensor(pack.ids, device=device)
        embedded = torch.nn.functional.embedding(ids, self._embedding).float()
        if self.rows is not None:
            embedded = self.rows.embed(ids, embedded)
        with self._mixed(device):
            hidden = self._core(
                inputs_embeds=embedded[None],
                position_ids=torch.tensor([pack.positions], device=device),
                layout=layout_of(pack, self._windows, device),
                use_cache=False,
            ).last_hidden_state[0]
            chosen = hidden[torch.tensor(pack.rows, device=device)]
            logits = torch.nn.functional.linear(chosen, self._head)
        logits = logits.float()
        return logits if self.rows is None else self.rows.logits(chosen.float(), logits)

    def _mixed(self, device: torch.device) -> torch.autocast:
        # Casts are not kept: the cache is shared between threads, and each factor is used once.
        return torch.autocast(
            device.type,
            torch.bfloat16,
            enabled=self._compute is not torch.float32,
            cache_enabled=False,
        )


class TokenRows:
    """Embeddings and head rows `[n, hidden]` of the tokens `ids`, learned apart from the tables."""

    def __init__(self, ids: torch.Tensor, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        self._ids = ids
        self.inputs = torch.nn.Parameter(inputs.clone())
        self.outputs = torch.nn.Parameter(outputs.clone())

    def named(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        yield "rows.inputs", self.inputs
        yield "rows.outputs", self.outputs

    def embed(self, ids: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """`embedded` `[T, hidden]` with the learned rows in place of the table's."""
        matches = ids[:, None] == self._ids[None]
        own = matches.to(self.inputs.dtype) @ self.inputs
        return torch.where(matches.any(dim=1)[:, None], own, embedded)

    def logits(self, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """`logits` `[N, V]` with the learned tokens' columns computed from the learned rows."""
        own = hidden @ self.outputs.T
        return logits.index_copy(1, self._ids, own)


def _store_frozen(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Keep the matrices that do not learn in `dtype`."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(dtype)


def _windows(config: Any) -> Iterator[int | None]:
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    for kind in kinds:
        yield config.sliding_window if kind == "sliding_attention" else None
