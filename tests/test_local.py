"""The Python API over a tiny random model: the path that serves, without a server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import osslo
from osslo.chat.events import TurnEnd, TurnEnded, TurnStarted
from osslo.chat.request import AssistantTurn, DeveloperText, SystemText, UserText
from osslo.errors import ConfigurationError, ContextLengthError, RequestError
from osslo.local import LocalModel, as_chat_messages
from osslo.model.checkpoints import open_checkpoint
from osslo.model.pack import pack
from osslo.model.reference import ReferenceModel
from osslo.model.synth import synthesize
from osslo.types import FinishReason


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize("tiny", tmp_path_factory.mktemp("local") / "tiny")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Iterator[LocalModel]:
    packed = pack(open_checkpoint(checkpoint), checkpoint.with_suffix(".osslo"), precision="exact")
    with osslo.load(packed, threads=1, context=512) as model:
        yield model


def test_logits_are_the_reference_models(model: LocalModel, checkpoint: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 256, 100).tolist()
    logits = model.logits(ids)
    wanted = ReferenceModel(open_checkpoint(checkpoint)).logits(ids)
    assert logits.dtype == np.float32
    assert logits.shape == (100, 320)
    assert np.abs(logits - wanted).max() <= 1e-3 * np.abs(wanted).max()


def test_greedy_generation_follows_the_logits(model: LocalModel) -> None:
    prompt = [1, 2, 3, 4, 5]
    generation = model.generate(prompt, max_tokens=8, temperature=0.0, ignore_eos=True)
    assert isinstance(generation.text, str)
    ids = prompt + generation.ids
    assert model.logits(ids[:-1])[4:].argmax(axis=1).tolist() == generation.ids
    assert generation.finish_reason is FinishReason.LENGTH
    assert generation.usage is not None
    assert generation.usage.completion_tokens == 8


def test_text_comes_in_pieces_that_make_the_whole(model: LocalModel) -> None:
    options = {"max_tokens": 40, "seed": 7, "ignore_eos": True}
    pieces = list(model.generate("Where is Oslo?", **options))
    assert "".join(pieces) == model.generate("Where is Oslo?", **options).text
    assert len(pieces) > 1


def test_stop_tokens_end_a_generation(model: LocalModel) -> None:
    first = model.generate([9, 8, 7], max_tokens=8, temperature=0.0, ignore_eos=True)
    assert first.text is not None
    stopped = model.generate(
        [9, 8, 7], max_tokens=8, temperature=0.0, ignore_eos=True, stop_token_ids=first.ids[:1]
    )
    assert stopped.text == ""
    assert stopped.ids == first.ids[:1]
    assert stopped.finish_reason is FinishReason.STOP


def test_a_closed_generation_leaves_the_model_usable(model: LocalModel) -> None:
    generation = model.generate([1, 2, 3], max_tokens=400, ignore_eos=True)
    next(generation)
    generation.close()
    assert list(generation) == []
    assert model.logits([1, 2, 3]).shape == (3, 320)


def test_a_chat_gives_one_reply(model: LocalModel) -> None:
    question = [{"role": "user", "content": "Hi"}]
    reply = model.chat(question, max_tokens=24, seed=1)
    assert reply.ended is not None
    assert reply.ended.usage.completion_tokens <= 24
    again = model.chat("Hi", max_tokens=24, seed=1)
    assert (again.text, again.reasoning) == (reply.text, reply.reasoning)


def test_a_chat_can_be_left_early(model: LocalModel) -> None:
    events = model.stream_chat("Hi", max_tokens=200, seed=2)
    assert isinstance(next(events), TurnStarted)
    events.close()
    ended = list(model.stream_chat("Hi", max_tokens=4, seed=2))[-1]
    assert isinstance(ended, TurnEnded)
    assert ended.reason in (TurnEnd.LENGTH, TurnEnd.STOP)


def test_too_long_a_prompt_is_refused(model: LocalModel) -> None:
    assert model.context_tokens == 512
    with pytest.raises(ContextLengthError):
        model.logits([1] * 513)
    with pytest.raises(ContextLengthError):
        next(model.generate([1] * 600))


def test_messages_in_every_spelling() -> None:
    assert as_chat_messages("Hi") == (UserText("Hi"),)
    records = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    wanted = (SystemText("a"), DeveloperText("b"), UserText("c"), AssistantTurn("d"))
    assert as_chat_messages(records) == wanted
    assert as_chat_messages(wanted) == wanted


@pytest.mark.parametrize("message", [{}, {"role": "user"}, {"role": "king", "content": "x"}])
def test_a_message_that_is_none(message: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=r"messages\[1\]"):
        as_chat_messages([{"role": "user", "content": "Hi"}, message])


def test_an_unknown_effort(model: LocalModel) -> None:
    with pytest.raises(RequestError, match="low, medium, high"):
        model.stream_chat("Hi", effort="huge")


def test_a_model_without_a_tokenizer_takes_ids_only(model: LocalModel) -> None:
    bare = LocalModel(model._engine, name="bare", tokenizer=None, served=None)
    generation = bare.generate([1, 2], max_tokens=3, temperature=0.0, ignore_eos=True)
    assert generation.text == ""
    assert len(generation.ids) == 3
    with pytest.raises(ConfigurationError, match="token ids"):
        bare.generate("text")
    with pytest.raises(ConfigurationError, match="cannot chat"):
        bare.chat("Hi")


def test_the_package_loads_its_python_api_only_when_asked() -> None:
    assert osslo.LocalModel is LocalModel
    assert set(osslo.__all__) == {"LocalModel", "__version__", "load"}
    with pytest.raises(AttributeError):
        _ = osslo.nothing  # type: ignore[attr-defined]  # that is the point


def test_loading_a_model_needs_nothing_of_the_server() -> None:
    """Half of the time of `import` would be spent on what only `osslo serve` uses."""
    heavy = ("fastapi", "uvicorn", "pydantic", "httpx", "huggingface_hub", "rich", "typer", "torch")
    code = f"import sys, osslo.local; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert shown.stdout.strip() == "[]"
