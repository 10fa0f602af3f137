"""What of a conversation is learned: all that the model has to say when nothing helps it."""

from __future__ import annotations

from osslo.harmony.messages import Channel, Conversation, Message, Role
from osslo.tuning.examples import ExampleRenderer
from tests.scripted import ByteVocabulary


def test_the_opening_of_a_message_after_ones_own_is_learned_and_serving_s_is_not() -> None:
    vocabulary = ByteVocabulary()
    turn = Conversation(
        messages=(
            Message(Role.USER, "hi"),
            Message(Role.ASSISTANT, "Think.", channel=Channel.ANALYSIS),
            Message(Role.ASSISTANT, "{}", channel=Channel.COMMENTARY, recipient="functions.f"),
            Message(Role.TOOL, "1", name="functions.f", channel=Channel.COMMENTARY),
            Message(Role.ASSISTANT, "One.", channel=Channel.FINAL),
        )
    )
    example = ExampleRenderer(vocabulary).last_turn(turn)
    names = {token: name for name, token in vocabulary.specials.items()}

    def said(token: int) -> str:
        return names.get(token) or vocabulary.token_bytes(token).decode()

    text = "".join(
        said(token) if learned else "_"
        for token, learned in zip(example.ids, example.learned, strict=True)
    )
    spoken = [part for part in text.split("_") if part]
    assert spoken == [
        "<|channel|>analysis<|message|>Think.<|end|>"
        "<|start|>assistant to=functions.f<|channel|>commentary<|message|>{}<|call|>",
        "<|channel|>final<|message|>One.<|return|>",
    ]
