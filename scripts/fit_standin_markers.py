"""Fit the embeddings of harmony's markers in the stand-in, so that harmony reads to it like ChatML.

The base was tuned on ChatML. Four rows (`<|start|>`, `<|end|>`, `<|message|>`, `<|channel|>`) are
fitted by gradient descent and nothing else: what the model says after a harmony prompt is pulled
towards what it says after the same conversation in ChatML (KL divergence, all other weights
frozen). Questions and answers are the base's own, sampled by the engine. Writes
src/osslo/model/standin/markers.npy, float32 [4, hidden]; takes some fifteen minutes on one core.

    python -m scripts.fit_standin_markers [--steps 70] [--out PATH]
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import osslo
from osslo.model.checkpoints.gguf import GgufFile
from osslo.model.standin import fetch_base
from osslo.model.standin.markers import FITTED_MARKERS, FITTED_PATH, add_markers
from osslo.model.tokenizer import Tokenizer
from osslo.model.tokenizer_sources import from_gguf
from recipes.stand_in.dense import llama_from_gguf

OPENINGS = (
    "What",
    "How",
    "Who",
    "Why",
    "When",
    "Where",
    "Which",
    "Write",
    "Explain",
    "List",
    "Is",
    "Can you",
    "Tell me",
    "Give",
    "Name",
    "Hello",
    "Translate",
    "Summarize",
    "Calculate",
    "Describe",
    "What is the",
    "How do I",
    "Define",
    "Compare",
)
CAPITALS = ("Italy", "Spain", "Canada", "Egypt", "Sweden", "Greece")
INSTRUCTIONS = ("You are a helpful assistant.", "Answer briefly.", "Answer in one sentence.")
QUESTIONS = 200
ANSWER_TOKENS = 32
BATCH = 2
LEARNING_RATE = 0.004


@dataclass(frozen=True)
class Pair:
    """A question, and the base's own answer to it in token ids, with the end if it came to it."""

    question: str
    answer: list[int]


class Formats:
    """The same conversation in ChatML and in harmony."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ends = [tokenizer.special(n) for n in ("<|return|>", "<|end|>", "<|call|>")]
        self.chatml_end = tokenizer.special("<|im_end|>")

    def ids(self, *parts: str) -> list[int]:
        """Markers by their ids, other parts as text."""
        specials = self.tokenizer.specials
        found: list[int] = []
        for part in parts:
            found += [specials[part]] if part in specials else self.tokenizer.encode(part)
        return found

    def chatml(self, role: str, text: str) -> list[int]:
        return self.ids("<|im_start|>", f"{role}\n{text}", "<|im_end|>", "\n")

    def harmony(self, role: str, text: str) -> list[int]:
        return self.ids("<|start|>", role, "<|message|>", text, "<|end|>")

    def ask_chatml(self, question: str) -> list[int]:
        return self.chatml("user", question) + self.ids("<|im_start|>", "assistant\n")

    def ask_harmony(self, question: str) -> list[int]:
        header = ("<|start|>", "assistant", "<|channel|>", "final", "<|message|>")
        return self.harmony("user", question) + self.ids(*header)


def system_text(source: random.Random) -> str:
    lines = (
        "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
    )
    if source.random() < 0.7:
        day = f"{source.randint(1, 12):02}-{source.randint(1, 28):02}"
        lines += f"Current date: {source.randint(2024, 2027)}-{day}\n"
    effort = source.choice(("low", "medium", "high"))
    valid = "analysis, commentary, final. Channel must be included for every message."
    return f"{lines}\nReasoning: {effort}\n\n# Valid channels: {valid}"


def collect(formats: Formats, source: random.Random) -> list[Pair]:
    """Questions that the base asks when it continues an opening, and its answers to them."""
    with osslo.load("stand-in") as model:

        def say(ids: list[int], seed: int, temperature: float) -> list[int]:
            reply = model.generate(
                ids,
                max_tokens=ANSWER_TOKENS,
                temperature=temperature,
                seed=seed,
                stop_token_ids=formats.ends,
            )
            return reply.ids if reply.text is not None else []

        questions = [f"What is the capital of {country}?" for country in CAPITALS]
        seed = 0
        while len(questions) < QUESTIONS:
            seed += 1
            opening = source.choice(OPENINGS)
            more = say(formats.ids("<|im_start|>", f"user\n{opening}"), seed, 0.8)
            if len(more) > 3 and more[-1] in formats.ends:
                questions.append(opening + formats.tokenizer.decode(more[:-1]))
        source.shuffle(questions)
        pairs = []
        for index, question in enumerate(questions):
            before = formats.chatml("system", system_text(source)) if index % 2 else []
            answer = say(before + formats.ask_chatml(question), 1, 0.0)
            if answer and answer[-1] in formats.ends:
                answer[-1] = formats.chatml_end
            pairs.append(Pair(question, answer))
    return pairs


def example(
    formats: Formats, pairs: list[Pair], source: random.Random
) -> tuple[list[int], list[int], int]:
    """A conversation in ChatML, the same in harmony, and how many of its last tokens count."""
    kind = source.random()
    chatml: list[int] = []
    harmony: list[int] = []
    if kind > 0.15:
        text = system_text(source)
        harmony += formats.harmony("system", text)
        if kind > 0.75:
            text = source.choice(INSTRUCTIONS)
            harmony += formats.harmony("developer", f"# Instructions\n\n{text}\n\n")
        chatml += formats.chatml("system", text)
    *earlier, last = source.sample(pairs, 2 if source.random() < 0.25 else 1)
    for pair in earlier:
        answer = [token for token in pair.answer if token != formats.chatml_end]
        chatml += formats.ask_chatml(pair.question) + answer + formats.ids("<|im_end|>", "\n")
        harmony += formats.ask_harmony(pair.question) + answer + formats.ids("<|end|>")
    chatml += formats.ask_chatml(last.question) + last.answer[:-1]
    harmony += formats.ask_harmony(last.question) + last.answer[:-1]
    return chatml, harmony, len(last.answer)


class Fit:
    """The frozen base, and the rows that are fitted."""

    def __init__(self, base: Path, formats: Formats, rows: np.ndarray) -> None:
        self.model = llama_from_gguf(base).requires_grad_(False)
        self.table = self.model.model.embed_tokens.weight
        self.ids = [formats.tokenizer.special(name) for name in FITTED_MARKERS]
        self.rows = torch.nn.Parameter(torch.tensor(rows))

    def loss(self, chatml: list[int], harmony: list[int], count: int) -> torch.Tensor:
        with torch.no_grad():
            wanted = self.model(torch.tensor([chatml])).logits[0, -count:].log_softmax(-1)
        given = self.model(inputs_embeds=self._embed(harmony)[None]).logits[0, -count:]
        return (wanted.exp() * (wanted - given.log_softmax(-1))).sum(-1).mean()

    def _embed(self, ids: list[int]) -> torch.Tensor:
        place = {token: index for index, token in enumerate(self.ids)}
        return torch.stack([self.rows[place[t]] if t in place else self.table[t] for t in ids])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=70)
    options.add_argument("--cache", type=Path, default=Path("build/test-cache"))
    options.add_argument("--out", type=Path, default=FITTED_PATH)
    given = options.parse_args()
    base = fetch_base(given.cache)
    gguf = GgufFile(base)
    marked = add_markers(from_gguf(gguf.metadata), gguf.float32("token_embd.weight"))
    formats = Formats(marked.tokenizer)
    source = random.Random(5)
    pairs = collect(formats, source)
    start = marked.embedding[[marked.tokenizer.special(name) for name in FITTED_MARKERS]]
    fit = Fit(base, formats, start)
    held = [example(formats, pairs, source) for _ in range(10)]
    optimizer = torch.optim.Adam([fit.rows], lr=LEARNING_RATE)
    for step in range(given.steps):
        rate = LEARNING_RATE * min(1, (step + 1) / 10) * (1 - step / given.steps) ** 0.5
        for group in optimizer.param_groups:
            group["lr"] = rate
        for _ in range(BATCH):
            (fit.loss(*example(formats, pairs, source)) / BATCH).backward()
        torch.nn.utils.clip_grad_value_([fit.rows], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 9:
            with torch.no_grad():
                kl = sum(float(fit.loss(*one)) for one in held) / len(held)
            print(f"step {step + 1}: held-out KL {kl:.4f}", flush=True)
    np.save(given.out, fit.rows.detach().numpy())


if __name__ == "__main__":
    main()
