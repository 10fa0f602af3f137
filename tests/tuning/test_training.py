"""Packs cost less and change nothing; a run that was stopped goes on with the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from osslo.errors import CheckpointError
from osslo.tuning.examples import Example
from osslo.tuning.loop import Outcome, Schedule, Trainer, read_log
from osslo.tuning.model import Trainable
from osslo.tuning.packing import Pack, group_by_prefix, pack


def alone(model: LlamaForCausalLM, example: Example) -> torch.Tensor:
    """The loss of one example by `transformers` alone."""
    ids = torch.tensor(example.ids)
    logits = model(ids[None]).logits[0, :-1]
    learned = torch.tensor(example.learned)[1:]
    return torch.nn.functional.cross_entropy(logits[learned], ids[1:][learned], reduction="sum")


def test_packs_share_prefixes_and_keep_every_target(examples: list[Example]) -> None:
    packs = pack(examples, 160, seed=1)
    assert sum(one.tokens for one in packs) < sum(len(example.ids) for example in examples)
    assert all(one.tokens <= 160 for one in packs)
    wanted = sum(example.learned_tokens for example in examples)
    assert sum(len(one.targets) for one in packs) == wanted
    assert sum(one.examples for one in packs) == len(examples)
    assert [len(members) for _, members in group_by_prefix(examples)] == [4, 4, 4]


def test_loss_and_gradients_are_those_of_the_examples_one_by_one(
    tiny: LlamaForCausalLM, examples: list[Example]
) -> None:
    loss = sum((alone(tiny, example) for example in examples), torch.zeros(()))
    wanted = torch.autograd.grad(loss, list(tiny.parameters()))
    trainable = Trainable(tiny)
    packed = sum((trainable.loss(p) for p in pack(examples, 200, seed=2)), torch.zeros(()))
    assert torch.allclose(loss, packed, rtol=1e-5)
    given = torch.autograd.grad(packed, list(tiny.parameters()))
    for one, other in zip(wanted, given, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


class Fixed:
    """The same packs in another order each step."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def step(self, index: int) -> Sequence[Pack]:
        return pack(self._examples, 120, seed=index)

    def validation(self) -> Sequence[Pack]:
        return pack(self._examples, 120, seed=0)[:1]


def train(
    state: dict[str, torch.Tensor],
    model: LlamaForCausalLM,
    source: Fixed,
    folder: Path,
    *,
    stop_after: int | None = None,
    workers: int = 1,
) -> tuple[Outcome, dict[str, torch.Tensor]]:
    model.load_state_dict(state)
    trainable = Trainable(model)
    done: list[int] = []
    schedule = Schedule(6, 1e-2, warmup_steps=2, validate_every=3, checkpoint_every=2)
    trainer = Trainer(
        trainable,
        source,
        schedule,
        folder,
        workers=workers,
        report=lambda record: done.append(record.step),
        stop=lambda: len(done) == stop_after,
    )
    return trainer.run(), trainable.state()


def test_a_stopped_run_ends_with_the_bits_of_one_that_was_not(
    tiny: LlamaForCausalLM, examples: list[Example], tmp_path: Path
) -> None:
    state = {name: value.clone() for name, value in tiny.state_dict().items()}
    source = Fixed(examples)
    whole, straight = train(state, tiny, source, tmp_path / "whole")
    first, _ = train(state, tiny, source, tmp_path / "parts", stop_after=3, workers=2)
    assert (first.reason, first.steps) == ("interrupted", 3)
    second, resumed = train(state, tiny, source, tmp_path / "parts", workers=2)
    assert (second.reason, second.steps) == ("finished", 6)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    losses = [record.loss for record in whole.records]
    assert [record.loss for record in read_log(tmp_path / "parts")] == losses
    assert losses[-1] < losses[0]


def test_a_broken_checkpoint_is_named(
    tiny: LlamaForCausalLM, examples: list[Example], tmp_path: Path
) -> None:
    (tmp_path / "checkpoint-0000002.pt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="checkpoint-0000002"):
        train(tiny.state_dict(), tiny, Fixed(examples), tmp_path)
