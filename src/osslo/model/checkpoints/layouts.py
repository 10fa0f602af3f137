"""How each kind of checkpoint names and fuses its tensors.

A layout maps every part of the model to a stored tensor. Parts that share one are fused: gate and
up rows alternate, query, key and value rows follow one another. What a stored tensor's shape must
be follows from the parts in it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from osslo.model.checkpoints.tensors import TensorName, tensor_shape
from osslo.model.config import ModelConfig

_EXPERT_PARTS = frozenset({"gate", "up", "down", "gate_bias", "up_bias", "down_bias"})
_MODEL_PARTS = frozenset({"embedding", "head", "final_norm"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a canonical tensor lies: `index` into a stored tensor seen as `[experts, out, in]`,
    `[out, in]` or `[out]`."""

    stored: str
    index: tuple[int | slice, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """A stored tensor that a model of these sizes must have. `shape` is as in `Place`; `parts` are
    the canonical parts of `layer` that are fused in it, in order."""

    stored: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    layer: int | None
    is_matrix: bool
    is_expert: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """One way of naming. `templates` maps parts to names with `{}` for the layer;
    `blocks` and `scales` end the names of MXFP4 experts where these are two tensors;
    `transposed_experts` says that plain experts are stored `[experts, in, out]`."""

    format: str
    templates: Mapping[str, str]
    blocks: str = ""
    scales: str = ""
    transposed_experts: bool = False

    def place(self, config: ModelConfig, name: TensorName) -> Place:
        """Where the canonical tensor `name` lies."""
        experts = () if name.expert is None else (name.expert,)
        return Place(self._stored(name), (*experts, self._rows(config, name.part)))

    def expected(self, config: ModelConfig) -> Iterator[Expected]:
        """Every stored tensor, in the order of the layers."""
        parts = {template: self._fused(part) for part, template in self.templates.items()}
        first_parts = [fused[0] for fused in parts.values()]
        for layer in (None, *range(config.layers)):
            for part in first_parts:
                if (part in _MODEL_PARTS) == (layer is None):
                    yield self._expect(config, TensorName(part, layer))

    def _expect(self, config: ModelConfig, name: TensorName) -> Expected:
        parts = self._fused(name.part)
        shapes = [tensor_shape(config, TensorName(part)) for part in parts]
        shape = (sum(s[0] for s in shapes), *shapes[0][1:])
        is_expert = name.part in _EXPERT_PARTS
        return Expected(
            self._stored(name),
            (config.experts, *shape) if is_expert else shape,
            tuple(parts),
            name.layer,
            is_matrix=len(shape) == 2,
            is_expert=is_expert,
        )

    def _stored(self, name: TensorName) -> str:
        return self.templates[name.part].format(name.layer)

    def _fused(self, part: str) -> list[str]:
        """The parts that share `part`'s stored tensor, in the order of their rows."""
        template = self.templates[part]
        return [other for other, name in self.templates.items() if name == template]

    def _rows(self, config: ModelConfig, part: str) -> slice:
        fused = self._fused(part)
        if len(fused) == 1:
            return slice(None)
        if part in _EXPERT_PARTS:
            return slice(fused.index(part), None, len(fused))
        sizes = [tensor_shape(config, TensorName(other))[0] for other in fused]
        start = sum(sizes[: fused.index(part)])
        return slice(start, start + sizes[fused.index(part)])


def _templates(prefix: str, model: dict[str, str], layer: dict[str, str]) -> Mapping[str, str]:
    return MappingProxyType({**model, **{part: prefix + name for part, name in layer.items()}})


HUGGINGFACE = Layout(
    "huggingface",
    _templates(
        "model.layers.{}.",
        {
            "embedding": "model.embed_tokens.weight",
            "final_norm": "model.norm.weight",
            "head": "lm_head.weight",
        },
        {
            "attention_norm": "input_layernorm.weight",
            "q": "self_attn.q_proj.weight",
            "q_bias": "self_attn.q_proj.bias",
            "k": "self_attn.k_proj.weight",
            "k_bias": "self_attn.k_proj.bias",
            "v": "self_attn.v_proj.weight",
            "v_bias": "self_attn.v_proj.bias",
            "sinks": "self_attn.sinks",
            "o": "self_attn.o_proj.weight",
            "o_bias": "self_attn.o_proj.bias",
            "mlp_norm": "post_attention_layernorm.weight",
            "router": "mlp.router.weight",
            "router_bias": "mlp.router.bias",
            "gate": "mlp.experts.gate_up_proj",
            "up": "mlp.experts.gate_up_proj",
            "gate_bias": "mlp.experts.gate_up_proj_bias",
            "up_bias": "mlp.experts.gate_up_proj_bias",
            "down": "mlp.experts.down_proj",
            "down_bias": "mlp.experts.down_proj_bias",
        },
    ),
    blocks="_blocks",
    scales="_scales",
    transposed_experts=True,
)

ORIGINAL = Layout(
    "original",
    _templates(
        "block.{}.",
        {
            "embedding": "embedding.weight",
            "final_norm": "norm.scale",
            "head": "unembedding.weight",
        },
        {
            "attention_norm": "attn.norm.scale",
            "q": "attn.qkv.weight",
            "k": "attn.qkv.weight",
            "v": "attn.qkv.weight",
            "q_bias": "attn.qkv.bias",
            "k_bias": "attn.qkv.bias",
            "v_bias": "attn.qkv.bias",
            "sinks": "attn.sinks",
            "o": "attn.out.weight",
            "o_bias": "attn.out.bias",
            "mlp_norm": "mlp.norm.scale",
            "router": "mlp.gate.weight",
            "router_bias": "mlp.gate.bias",
            "gate": "mlp.mlp1_weight",
            "up": "mlp.mlp1_weight",
            "gate_bias": "mlp.mlp1_bias",
            "up_bias": "mlp.mlp1_bias",
            "down": "mlp.mlp2_weight",
            "down_bias": "mlp.mlp2_bias",
        },
    ),
    blocks=".blocks",
    scales=".scales",
)

GGUF = Layout(
    "gguf",
    _templates(
        "blk.{}.",
        {
            "embedding": "token_embd.weight",
            "final_norm": "output_norm.weight",
            "head": "output.weight",
        },
        {
            "attention_norm": "attn_norm.weight",
            "q": "attn_q.weight",
            "q_bias": "attn_q.bias",
            "k": "attn_k.weight",
            "k_bias": "attn_k.bias",
            "v": "attn_v.weight",
            "v_bias": "attn_v.bias",
            "sinks": "attn_sinks.weight",
            "o": "attn_output.weight",
            "o_bias": "attn_output.bias",
            "mlp_norm": "post_attention_norm.weight",
            "router": "ffn_gate_inp.weight",
            "router_bias": "ffn_gate_inp.bias",
            "gate": "ffn_gate_exps.weight",
            "gate_bias": "ffn_gate_exps.bias",
            "up": "ffn_up_exps.weight",
            "up_bias": "ffn_up_exps.bias",
            "down": "ffn_down_exps.weight",
            "down_bias": "ffn_down_exps.bias",
        },
    ),
)

OLLAMA = Layout(
    "gguf",
    _templates(
        "blk.{}.",
        {
            "embedding": "token_embd.weight",
            "final_norm": "output_norm.weight",
            "head": "output.weight",
        },
        {
            "attention_norm": "attn_norm.weight",
            "q": "attn_qkv.weight",
            "k": "attn_qkv.weight",
            "v": "attn_qkv.weight",
            "q_bias": "attn_qkv.bias",
            "k_bias": "attn_qkv.bias",
            "v_bias": "attn_qkv.bias",
            "sinks": "attn_sinks",
            "o": "attn_out.weight",
            "o_bias": "attn_out.bias",
            "mlp_norm": "ffn_norm.weight",
            "router": "ffn_gate_inp.weight",
            "router_bias": "ffn_gate_inp.bias",
            "gate": "ffn_gate_up_exps.weight",
            "up": "ffn_gate_up_exps.weight",
            "gate_bias": "ffn_gate_up_exps.bias",
            "up_bias": "ffn_gate_up_exps.bias",
            "down": "ffn_down_exps.weight",
            "down_bias": "ffn_down_exps.bias",
        },
    ),
)


def ollama_layout(stored: Container[str]) -> Layout:
    """Ollama's layout of the file with these tensors.

    Its converter has fused and split queries, keys and values, gates and ups, each by itself, and
    its runtime takes llama.cpp's names too; so each part has llama.cpp's name where the first
    layer has it, and else `OLLAMA`'s.
    """
    both = ((part, own, GGUF.templates[part]) for part, own in OLLAMA.templates.items())
    chosen = {part: ggml if ggml.format(0) in stored else own for part, own, ggml in both}
    return replace(OLLAMA, templates=MappingProxyType(chosen))
