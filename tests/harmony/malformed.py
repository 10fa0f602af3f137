"""The corpus of malformed streams: how each reads on the wire and what it must yield."""

from __future__ import annotations

from dataclasses import dataclass

from osslo.harmony.events import Anomaly

A = Anomaly

_VISIBLE = ("final", "commentary")
_CHANNELS = ("analysis", *_VISIBLE)

KNOWN = ("functions.get_weather", "functions.f", "python")


@dataclass(frozen=True, slots=True)
class Form:
    """A stream after `<|start|>assistant`; `recovered` lists (recipient or channel, content)."""

    name: str
    stream: str
    recovered: tuple[tuple[str, str], ...]
    anomalies: tuple[A, ...] = ()
    known: bool = False

    @property
    def calls(self) -> tuple[tuple[str, str], ...]:
        """The calls to recover: (recipient, arguments)."""
        return tuple(item for item in self.recovered if item[0] not in _CHANNELS)

    @property
    def text(self) -> str:
        """The visible text to recover, of all its messages."""
        return "".join(text for channel, text in self.recovered if channel in _VISIBLE)

    @property
    def reasoning(self) -> str:
        """The reasoning to recover."""
        return "".join(text for channel, text in self.recovered if channel == "analysis")


CALL = ("functions.f", '{"a":1}')
ARGS = '<|message|>{"a":1}<|call|>'

CORPUS = (
    # --- recipients, wherever they stand
    Form("recipient-in-role", f" to=functions.f<|channel|>commentary json{ARGS}", (CALL,)),
    Form("recipient-in-channel", f"<|channel|>commentary to=functions.f json{ARGS}", (CALL,)),
    Form("recipient-in-both",
         f" to=functions.f<|channel|>commentary to=functions.f<|constrain|>json{ARGS}", (CALL,)),
    Form("recipient-after-type",
         f"<|channel|>commentary <|constrain|>json to=functions.f{ARGS}", (CALL,)),
    Form("type-before-recipient", f"<|channel|>commentary json to=functions.f{ARGS}", (CALL,)),
    Form("call-on-analysis", f"<|channel|>analysis to=functions.f{ARGS}", (CALL,)),
    Form("call-on-final", f"<|channel|>final to=functions.f <|constrain|>json{ARGS}", (CALL,)),
    Form("call-without-channel", f" to=functions.f{ARGS}", (CALL,), (A.MISSING_CHANNEL,)),
    Form("call-by-role-name", f"<|end|><|start|>functions.f<|channel|>commentary{ARGS}",
         (CALL,), (A.STRAY_END,)),
    Form("recipient-without-to", f"<|channel|>commentary functions.f <|constrain|>json{ARGS}",
         (CALL,)),
    Form("two-recipients", f" to=python<|channel|>commentary to=functions.f{ARGS}", (CALL,),
         (A.HEADER_JUNK,)),
    Form("recipient-user", " to=user<|channel|>final<|message|>Hi<|return|>", (("final", "Hi"),)),
    Form("recipient-assistant", "<|channel|>final to=assistant<|message|>Hi<|return|>",
         (("final", "Hi"),)),
    # --- glued words
    Form("glued-channel-recipient", f"<|channel|>commentaryto=functions.f{ARGS}", (CALL,)),
    Form("glued-role-recipient",
         f"<|end|><|start|>assistantto=functions.f<|channel|>commentary{ARGS}",
         (CALL,), (A.STRAY_END,)),
    Form("glued-type", f"<|channel|>commentary to=functions.fjson{ARGS}", (CALL,),
         (A.REPAIRED_RECIPIENT,), known=True),
    Form("glued-constrain", f"<|channel|>commentary to=functions.f<|constrain|>json{ARGS}",
         (CALL,)),
    Form("spaced-constrain", f"<|channel|>commentary to=functions.f <|constrain|> json{ARGS}",
         (CALL,)),
    Form("spelled-constrain", f"<|channel|>commentary to=functions.f <|const" f"rain|>json{ARGS}",
         (CALL,)),
    Form("short-recipient", f"<|channel|>commentary to=f{ARGS}", (CALL,),
         (A.REPAIRED_RECIPIENT,), known=True),
    Form("recipient-with-junk", f"<|channel|>commentary to=functions.f,{ARGS}", (CALL,),
         (A.REPAIRED_RECIPIENT,), known=True),
    Form("prefixed-builtin", "<|channel|>analysis to=functions.python<|message|>1<|call|>",
         (("python", "1"),), (A.REPAIRED_RECIPIENT,), known=True),
    # --- junk recipients (ollama#11704) and repeated starts
    Form("repeated-start", "<|start|>assistant<|channel|>final<|message|>Hi<|return|>",
         (("final", "Hi"),)),
    Form("twice-repeated-start",
         "<|start|>assistant<|start|>assistant<|channel|>final<|message|>Hi<|return|>",
         (("final", "Hi"),), (A.REPEATED_START,)),
    Form("repeated-role", "assistant<|channel|>final<|message|>Hi<|return|>", (("final", "Hi"),)),
    Form("channel-twice", "<|channel|>commentary<|channel|>final<|message|>Hi<|return|>",
         (("final", "Hi"),), (A.REPEATED_CHANNEL,)),
    Form("channel-after-call", f"<|channel|>analysis to=functions.f<|channel|>commentary{ARGS}",
         (CALL,), (A.REPEATED_CHANNEL,)),
    Form("final-constrain-json", '<|channel|>final <|constrain|>json<|message|>{"a":1}<|return|>',
         (("final", '{"a":1}'),)),
    # --- ends
    Form("call-ends-in-return", '<|channel|>commentary to=functions.f<|message|>{"a":1}<|return|>',
         (CALL,)),
    Form("call-ends-in-end", '<|channel|>commentary to=functions.f<|message|>{"a":1}<|end|>',
         (CALL,)),
    Form("call-cut-off", '<|channel|>commentary to=functions.f<|message|>{"a":1',
         (("functions.f", '{"a":1'),)),
    Form("answer-cut-off", "<|channel|>final<|message|>Hal", (("final", "Hal"),)),
    Form("header-cut-off", "<|channel|>commentary to=functions.get_", (), (A.CUT_HEADER,)),
    Form("channel-cut-off", "<|channel|>comment", (), (A.CUT_HEADER,)),
    Form("lone-return", "<|return|>", (), (A.STRAY_END,)),
    Form("end-twice", "<|channel|>final<|message|>Hi<|end|><|return|>", (("final", "Hi"),),
         (A.STRAY_END,)),
    Form("empty-message", "<|channel|>final<|message|>Hi<|end|><|start|>assistant<|end|>",
         (("final", "Hi"),), (A.EMPTY_MESSAGE, A.MISSING_CHANNEL)),
    Form("end-of-text", "<|channel|>final<|message|>Hi<|endoftext|>", (("final", "Hi"),)),
    # --- missing markers
    Form("no-header", "The capital is Oslo.<|return|>", (("final", "The capital is Oslo."),),
         (A.MISSING_HEADER,)),
    Form("no-header-no-end", "to be or not", (("final", "to be or not"),), (A.MISSING_HEADER,)),
    Form("no-header-word", "final answer: 4<|return|>", (("final", "final answer: 4"),),
         (A.MISSING_HEADER,)),
    Form("no-channel", "<|message|>Hi<|return|>", (("final", "Hi"),), (A.MISSING_CHANNEL,)),
    Form("no-channel-marker", "final<|message|>Hi<|return|>", (("final", "Hi"),)),
    Form("empty-channel", "<|channel|><|message|>Hi<|return|>", (("final", "Hi"),),
         (A.MISSING_CHANNEL,)),
    Form("unknown-channel", "<|channel|>thoughts<|message|>Hi<|return|>", (("final", "Hi"),),
         (A.UNKNOWN_CHANNEL, A.MISSING_CHANNEL)),
    Form("no-message-marker", "<|channel|>final The answer is 4.<|return|>",
         (("final", " The answer is 4."),), (A.MISSING_MESSAGE,)),
    Form("no-message-marker-in-call",
         '<|channel|>commentary to=functions.f <|constrain|>json{"a":1}<|call|>', (CALL,),
         (A.MISSING_MESSAGE,)),
    Form("no-markers-but-recipient", 'to=functions.f{"a":1}<|call|>', (CALL,),
         (A.MISSING_MESSAGE, A.MISSING_CHANNEL)),
    Form("call-without-arguments", "<|channel|>commentary to=functions.f<|call|>",
         (("functions.f", ""),), (A.MISSING_MESSAGE,)),
    Form("no-end-before-start",
         "<|channel|>analysis<|message|>Hm.<|start|>assistant<|channel|>final<|message|>Hi<|return|>",
         (("analysis", "Hm."), ("final", "Hi")), (A.MISSING_END,)),
    Form("no-end-before-channel",
         "<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Hi<|return|>",
         (("analysis", "Hm."), ("final", "Hi")), (A.MISSING_END,)),
    Form("no-end-before-call",
         f"<|channel|>analysis<|message|>Hm.<|channel|>commentary to=functions.f{ARGS}",
         (("analysis", "Hm."), CALL), (A.MISSING_END,)),
    Form("no-end-no-message-before-call",
         '<|channel|>analysis<|message|>Hm.<|start|>assistant to=functions.f json{"a":1}<|call|>',
         (("analysis", "Hm."), CALL), (A.MISSING_END, A.MISSING_MESSAGE, A.MISSING_CHANNEL)),
    Form("no-start-after-end",
         "<|channel|>analysis<|message|>Hm.<|end|>assistant<|channel|>final<|message|>Hi<|return|>",
         (("analysis", "Hm."), ("final", "Hi"))),
    Form("text-after-end", "<|channel|>analysis<|message|>Hm.<|end|>It is 4.<|return|>",
         (("analysis", "Hm."), ("final", "It is 4.")), (A.MISSING_HEADER,)),
    Form("space-after-end",
         "<|channel|>analysis<|message|>Hm.<|end|>\n<|start|>assistant<|channel|>final<|message|>Hi",
         (("analysis", "Hm."), ("final", "Hi"))),
    # --- markers inside text
    Form("start-inside-text", "<|channel|>final<|message|>Use <|start|> to begin.<|return|>",
         (("final", "Use <|start|> to begin."),), (A.STRAY_MARKER,)),
    Form("channel-inside-text", "<|channel|>final<|message|>A <|channel|> is a lane.<|return|>",
         (("final", "A <|channel|> is a lane."),), (A.STRAY_MARKER,)),
    Form("message-inside-text", "<|channel|>final<|message|>Then <|message|> ends it.<|return|>",
         (("final", "Then <|message|> ends it."),), (A.STRAY_MARKER,)),
    Form("constrain-inside-text", "<|channel|>final<|message|>a<|constrain|>b<|return|>",
         (("final", "a<|constrain|>b"),), (A.STRAY_MARKER,)),
    # --- headers in plain words, glued to the text
    Form("glued-analysis-final", "analysisHm, 2 and 2.assistantfinalIt is 4.<|return|>",
         (("analysis", "Hm, 2 and 2."), ("final", "It is 4.")), (A.GLUED_HEADER,)),
    Form("glued-final", "finalIt is 4.<|return|>", (("final", "It is 4."),), (A.GLUED_HEADER,)),
    Form("glued-assistant-final", "assistantfinal**4**<|return|>", (("final", "**4**"),),
         (A.GLUED_HEADER,)),
    Form("glued-final-after-marked-analysis",
         "<|channel|>analysis<|message|>Hm.\nassistantfinalIt is 4.<|return|>",
         (("analysis", "Hm.\n"), ("final", "It is 4.")), (A.GLUED_HEADER,)),
    Form("glued-call",
         'analysisLook.assistantcommentary to=functions.f json{"a":1}<|call|>',
         (("analysis", "Look."), CALL), (A.GLUED_HEADER, A.MISSING_MESSAGE)),
    Form("glued-call-with-markers",
         f"<|channel|>analysis<|message|>Look.assistantcommentary to=functions.f json{ARGS}",
         (("analysis", "Look."), CALL), (A.GLUED_HEADER,)),
    Form("glued-call-with-channel-marker",
         f"<|channel|>analysis<|message|>Go.assistant to=functions.f<|channel|>commentary{ARGS}",
         (("analysis", "Go."), CALL), (A.GLUED_HEADER,)),
    Form("glued-call-in-role",
         'analysisGo.assistant to=functions.f{"a":1}<|call|>',
         (("analysis", "Go."), CALL),
         (A.GLUED_HEADER, A.MISSING_MESSAGE, A.MISSING_CHANNEL)),
    Form("glued-call-then-answer",
         f"<|channel|>analysis<|message|>Hm.assistantfinalI will look.<|end|>"
         f"<|start|>assistant<|channel|>commentary to=functions.f{ARGS}",
         (("analysis", "Hm."), ("final", "I will look."), CALL), (A.GLUED_HEADER,)),
    Form("glued-analysis-cut-off", "analysisHm, assistantfin",
         (("analysis", "Hm, assistantfin"),), (A.GLUED_HEADER,)),
    Form("glued-words-quoted",
         "<|channel|>analysis<|message|>They ask of 'assistantfinal' here.<|end|>",
         (("analysis", "They ask of 'assistantfinal' here."),)),
    Form("glued-words-in-prose",
         "<|channel|>analysis<|message|>The assistantfinal word.<|end|>",
         (("analysis", "The assistantfinal word."),)),
    Form("glued-words-in-an-answer",
         "<|channel|>final<|message|>So.assistantfinalIt leaks.<|return|>",
         (("final", "So.assistantfinalIt leaks."),)),
    Form("analysis-as-a-word", "analysis shows 4<|return|>", (("final", "analysis shows 4"),),
         (A.MISSING_HEADER,)),
    # --- other roles
    Form("another-role", "<|end|><|start|>user<|channel|>final<|message|>Hi<|end|>",
         (("final", "Hi"),), (A.STRAY_END, A.FOREIGN_ROLE)),
    Form("unknown-role", "<|end|><|start|>narrator<|message|>Hi<|end|>",
         (("final", "Hi"),), (A.STRAY_END, A.FOREIGN_ROLE, A.MISSING_CHANNEL)),
    Form("invented-result",
         "<|end|><|start|>functions.f to=assistant<|channel|>commentary<|message|>4<|end|>",
         (("commentary", "4"),), (A.STRAY_END, A.FOREIGN_ROLE)),
    Form("odd-header-words", "<|channel|>final one two three<|message|>Hi<|return|>",
         (("final", "Hi"),), (A.HEADER_JUNK,)),
)  # fmt: skip
