"""Raw completions, tokens and guided formats on a real (random) model, by the official client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from osslo.model.synth import synthesize
from osslo.serve import build
from osslo.settings import load_settings
from tests.api.conftest import ask
from tests.scripted import serving

PROMPT = "The capital of Norway is"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("raw")
    checkpoint: Path = synthesize("tiny", folder / "tiny")
    home = str(folder / "home")
    policy = folder / "policy.toml"
    policy.write_text('instructions = "{categories}"\n[categories]\nhate = "x"\nviolence = "y"\n')
    settings = load_settings(
        environment={"HOME": home, "OSSLO_HOME": home},
        overrides={
            "model": str(checkpoint),
            "context": 1024,
            "threads": 1,
            "moderation_policy": str(policy),
        },
    )
    server = build(settings)
    with (
        serving(server.app) as url,
        openai.OpenAI(base_url=url + "/v1", api_key=server.key, max_retries=0) as opened,
    ):
        yield opened
    server.model.backend.close_blocking()  # type: ignore[attr-defined]  # it is the engine


def complete(client: openai.OpenAI, **fields: object) -> openai.types.Completion:
    wanted = {"model": "gpt-oss-20b", "prompt": PROMPT, "max_tokens": 8, "temperature": 0.0}
    return client.completions.create(**(wanted | fields))  # type: ignore[call-overload,no-any-return]  # as a caller writes it


def test_texts_are_judged_by_the_models_own_probabilities(client: openai.OpenAI) -> None:
    """Random weights hold nothing for certain; the form is filled in all the same."""
    judged = client.moderations.create(input=["One text.", "Another text."], model="gpt-oss-20b")
    again = client.moderations.create(input="One text.")
    first, second = judged.results
    assert first.category_scores == again.results[0].category_scores
    assert first.category_scores != second.category_scores
    for result in judged.results:
        scores = (result.category_scores.hate, result.category_scores.violence)
        assert all(0 < score < 1 for score in scores)
        assert result.category_scores.sexual == 0
        assert result.categories.hate == (scores[0] >= 0.5)
        assert result.flagged == any(score >= 0.5 for score in scores)


def test_text_and_its_tokens_give_the_same(client: openai.OpenAI) -> None:
    reply = client.post("/tokenize", body={"prompt": PROMPT}, cast_to=httpx.Response)
    ids = reply.json()["tokens"]
    assert complete(client).choices[0].text == complete(client, prompt=ids).choices[0].text
    back = client.post("/detokenize", body={"tokens": ids}, cast_to=httpx.Response)
    assert back.json()["prompt"] == PROMPT


def test_an_echo_scores_every_token_of_the_prompt_but_the_first(client: openai.OpenAI) -> None:
    made = complete(client, logprobs=2, max_tokens=6).choices[0]
    assert made.logprobs is not None
    read = complete(client, prompt=PROMPT + made.text, max_tokens=0, echo=True, logprobs=2)
    echoed = read.choices[0]
    assert echoed.text == PROMPT + made.text
    assert echoed.logprobs is not None
    assert echoed.logprobs.token_logprobs is not None
    assert echoed.logprobs.token_logprobs[0] is None
    assert all(score is not None and score < 0 for score in echoed.logprobs.token_logprobs[1:])
    assert echoed.logprobs.text_offset is not None
    assert echoed.logprobs.tokens is not None
    assert echoed.text.startswith(echoed.logprobs.tokens[0])
    assert len(echoed.logprobs.tokens) == read.usage.prompt_tokens  # type: ignore[union-attr]  # it has usage


def test_choices_of_several_prompts_are_those_of_each(client: openai.OpenAI) -> None:
    both = complete(client, prompt=[PROMPT, "Once"], n=2, temperature=1.0, seed=5)
    alone = complete(client, prompt="Once", n=2, temperature=1.0, seed=5)
    assert [choice.text for choice in both.choices[2:]] == [choice.text for choice in alone.choices]
    assert both.usage is not None
    assert both.usage.completion_tokens <= 4 * 8


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = complete(client, temperature=1.0, seed=3, logprobs=1)
    chunks = list(complete(client, temperature=1.0, seed=3, logprobs=1, stream=True))  # type: ignore[call-overload]  # a stream
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert whole.choices[0].logprobs is not None
    streamed = [token for c in chunks for token in (c.choices[0].logprobs or _NONE).tokens or ()]
    assert streamed == whole.choices[0].logprobs.tokens


class _NONE:
    tokens: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("guided", "allowed"),
    [
        ({"guided_choice": ["red", "green"]}, {"red", "green"}),
        ({"guided_regex": "(ab){2}|x"}, {"abab", "x"}),
        ({"guided_json": {"type": "boolean"}}, {"true", "false"}),
        ({"guided_grammar": 'start: "yes" | "no"'}, {"yes", "no"}),
    ],
)
def test_guided_formats_bind_both_protocols(
    client: openai.OpenAI, guided: dict[str, object], allowed: set[str]
) -> None:
    raw = complete(client, max_tokens=32, extra_body=guided)
    assert raw.choices[0].text in allowed
    assert raw.choices[0].finish_reason == "stop"
    chat = client.chat.completions.create(
        **ask(max_tokens=300),  # type: ignore[arg-type]  # a request as it is sent
        reasoning_effort="none",
        extra_body=guided,
    )
    assert chat.choices[0].message.content in allowed


def test_the_input_of_a_custom_tool_follows_its_grammar(client: openai.OpenAI) -> None:
    form = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "ls( -[la])?"}}
    tool = {"type": "custom", "custom": {"name": "shell", "format": form}}
    reply = client.chat.completions.create(
        **ask(max_tokens=300),  # type: ignore[arg-type]  # a request as it is sent
        tools=[tool],  # type: ignore[list-item]  # a custom tool
        tool_choice="required",
        reasoning_effort="none",
    )
    (call,) = reply.choices[0].message.tool_calls or ()
    assert call.type == "custom"
    assert call.custom.input in {"ls", "ls -l", "ls -a"}
