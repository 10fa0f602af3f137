"""What the base itself answers: questions it asks, and its own answers to them, by its own engine.

The base continues an opening of a user's message in ChatML, which gives a question; its greedy
answer to that question, where it is short and comes to an end, is kept. Trained on these, the
stand-in keeps its base's voice. Deterministic: the engine gives the same tokens in any batch.

    python -m recipes.stand_in.base_answers --split train --count 900
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import osslo
from osslo.local import LocalModel

OPENINGS = {
    "train": (
        "What is", "What are", "How do I", "How does", "How can I", "Who", "Why do", "Why is",
        "When", "Where", "Which", "Write a short", "Explain", "List three", "Is it", "Can you",
        "Give me a", "Name", "Hello", "Hi", "Thank", "Summarize", "Describe", "What is the",
        "Define", "Compare", "Suggest", "What would", "I need", "I want to", "My", "Should I",
        "What does", "Complete the", "Rewrite", "Create a", "Find the", "Identify", "Does",
        "In one sentence,", "Briefly", "Answer shortly:", "What color", "Which animal",
    ),
    "held_out": (
        "Could you", "Please", "What's", "Who was", "Do you", "How many", "How long", "Are there",
        "Recommend", "Tell me about", "Why did", "What happens", "Good morning", "Classify",
    ),
}  # fmt: skip
TOPICS = {
    "train": (
        "photosynthesis", "gravity", "the water cycle", "a volcano", "democracy", "inflation",
        "the Renaissance", "jazz", "yoga", "a balanced diet", "the immune system", "DNA",
        "electricity", "magnetism", "a rainbow", "recycling", "climate change", "the internet",
        "a computer virus", "an algorithm", "Python programming", "a database", "a budget",
        "compound interest", "the stock market", "insurance", "a metaphor", "a haiku", "a novel",
        "chess", "football", "swimming", "cooking rice", "baking bread", "coffee", "green tea",
        "a vegetable garden", "bees", "whales", "elephants", "dinosaurs", "the moon", "the sun",
        "Mars", "a black hole", "the ocean", "a desert", "a rainforest", "friendship", "empathy",
        "time management", "public speaking", "a job interview", "learning a language", "sleep",
        "meditation", "exercise", "drinking water", "solar panels", "wind power", "a bicycle",
        "an electric car", "airplanes", "the Roman Empire", "ancient Egypt", "the printing press",
        "vaccines", "the heart", "the brain", "a healthy breakfast", "saving money", "teamwork",
    ),
    "held_out": (
        "osmosis", "a tornado", "the French Revolution", "a guitar", "honesty", "a compiler",
        "penguins", "Jupiter", "mortgages", "a marathon", "cheese", "trains", "stress", "poetry",
    ),
}  # fmt: skip
ASKING = {
    "train": (
        "What is {}?", "Explain {} in one sentence.", "Explain {} to a child.",
        "Tell me a fact about {}.", "Why is {} important?", "Describe {} briefly.",
        "Write one sentence about {}.",
        "Give me a tip about {}.", "How would you define {}?", "List three words about {}.",
    ),
    "held_out": (
        "Could you explain {}?", "What should I know about {}?", "Say something about {}.",
    ),
}  # fmt: skip
QUESTION_TOKENS = 40
ANSWER_TOKENS = 64
WORKERS = 8


@dataclass(frozen=True, slots=True)
class Answered:
    """A question and the base's answer to it."""

    question: str
    answer: str


def collect(model: LocalModel, split: str, count: int, seed: int) -> Iterator[Answered]:
    """`count` different questions with answers, as they come; the same for the same seed."""
    source = random.Random(f"{split}{seed}")
    seen: set[str] = set()
    with ThreadPoolExecutor(WORKERS) as pool:
        while len(seen) < count:
            starts = [_start(split, source) for _ in range(4 * WORKERS)]
            for found in pool.map(lambda start: _ask(model, *start), starts):
                if found is None or found.question.lower() in seen or len(seen) == count:
                    continue
                seen.add(found.question.lower())
                yield found


def _start(split: str, source: random.Random) -> tuple[str, int | None]:
    """A whole question, or an opening and the seed with which the base continues it."""
    if source.random() < 0.6:
        return source.choice(ASKING[split]).format(source.choice(TOPICS[split])), None
    return source.choice(OPENINGS[split]), source.randrange(2**31)


def _ask(model: LocalModel, opening: str, seed: int | None) -> Answered | None:
    question = opening
    if seed is not None:
        more = _say(model, f"user\n{opening}", QUESTION_TOKENS, 0.6, seed)
        if more is None or len(more) < 2 or "\n" in more:
            return None
        question += more
    answer = _say(model, question, ANSWER_TOKENS, 0.0, 0, asked=True)
    if not answer or answer.strip().lower() == question.strip().lower():
        return None
    return Answered(question.strip(), answer.strip())


def _say(
    model: LocalModel, text: str, most: int, temperature: float, seed: int, *, asked: bool = False
) -> str | None:
    """The base's words after `text` up to its end marker; None if it did not come to one."""
    tokenizer = model.tokenizer
    start, end = tokenizer.specials["<|im_start|>"], tokenizer.specials["<|im_end|>"]
    if asked:
        ids = [start, *tokenizer.encode(f"user\n{text}"), end, *tokenizer.encode("\n")]
        ids += [start, *tokenizer.encode("assistant\n")]
    else:
        ids = [start, *tokenizer.encode(text)]
    ends = [tokenizer.specials[name] for name in ("<|return|>", "<|end|>", "<|call|>")]
    made = model.generate(
        ids, max_tokens=most, temperature=temperature, seed=seed, stop_token_ids=ends
    )
    said = made.text
    return said if made.ids and made.ids[-1] in ends else None


def read(path: Path) -> list[Answered]:
    """The pairs of a file that `main` wrote."""
    return [Answered(**json.loads(line)) for line in path.read_text().splitlines()]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--split", choices=sorted(OPENINGS), default="train")
    options.add_argument("--count", type=int, default=900)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--out", type=Path)
    options.add_argument("--model", default="stand-in", help="the untrained stand-in")
    options.add_argument("--threads", type=int)
    given = options.parse_args()
    out = given.out or Path(f"build/tuning/base_answers_{given.split}.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        osslo.load(given.model, context=512, threads=given.threads) as model,
        out.open("w") as file,
    ):
        for count, pair in enumerate(collect(model, given.split, given.count, given.seed), 1):
            file.write(json.dumps(asdict(pair)) + "\n")
            file.flush()  # what is there can be used, whatever comes
            print(f"\r{count} of {given.count} answers", end="", flush=True)
    print(f"\n{out}")


if __name__ == "__main__":
    main()
