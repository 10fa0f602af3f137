"""Short greedy answers of the model that is trained, for the report's before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from osslo.harmony.vocabulary import Markers
from osslo.model.tokenizer import Tokenizer
from osslo.tuning import attention
from osslo.tuning.examples import Example

_PROMPT_SHOWN = 400


@dataclass(frozen=True, slots=True)
class Sample:
    """The end of a prompt, what the data answers, and what the model answers."""

    prompt: str
    wanted: str
    answer: str


def answer(
    model: torch.nn.Module,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    *,
    max_tokens: int,
    compute: torch.dtype,
) -> tuple[Sample, ...]:
    """Answer the examples' prompts greedily, as far as their first turn's end. Matrix products are
    computed in `compute`."""
    core: Any = model
    markers = Markers.of(tokenizer)
    stops = {markers.return_, markers.call}
    core.set_attn_implementation("eager")
    try:
        device = core.get_input_embeddings().weight.device
        mixed = compute is not torch.float32
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            return tuple(_sample(core, tokenizer, e, stops, max_tokens) for e in examples)
    finally:
        core.set_attn_implementation(attention.NAME)


def _sample(
    core: Any, tokenizer: Tokenizer, example: Example, stops: set[int], max_tokens: int
) -> Sample:
    first = example.learned.index(True)
    prompt = example.ids[:first]
    device = core.get_input_embeddings().weight.device
    given, cache, made = list(prompt), None, list[int]()
    while len(made) < max_tokens:
        ids = torch.tensor([given], device=device)
        embedded = core.get_input_embeddings()(ids).float()
        result = core(
            inputs_embeds=embedded, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        cache = result.past_key_values
        given = [int(result.logits[0, -1].argmax())]
        made += given
        if given[0] in stops:
            break
    return Sample(
        tokenizer.decode(prompt)[-_PROMPT_SHOWN:],
        tokenizer.decode(example.ids[first:]),
        tokenizer.decode(made),
    )
