"""What the public pages tell of a model: the facts of gpt-oss, with their sources.

Benchmark figures are OpenAI's own, of August 2025, at high reasoning effort: the gpt-oss model card
(arXiv 2508.10925, table 3) and, for o3-mini, the announcement "Introducing gpt-oss". They say what
the published weights reached there, not what this server measured.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One row: a score for each model, in percent unless `unit` says otherwise."""

    name: str
    what: str
    gpt_oss_20b: float
    gpt_oss_120b: float
    o3_mini: float | None
    unit: str = "%"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is to be said of a model beyond how it is served here."""

    title: str
    summary: str
    specifications: tuple[tuple[str, str], ...]
    good_at: tuple[str, ...]
    limitations: tuple[str, ...]
    benchmarks: tuple[Benchmark, ...] = ()


BENCHMARK_SOURCES = (
    ("gpt-oss model card, arXiv 2508.10925", "https://arxiv.org/abs/2508.10925"),
    ("OpenAI, Introducing gpt-oss", "https://openai.com/index/introducing-gpt-oss/"),
)

_BENCHMARKS = (
    Benchmark("AIME 2024", "competition mathematics, with tools", 96.0, 96.6, 87.3),
    Benchmark("AIME 2025", "competition mathematics, with tools", 98.7, 97.9, 86.5),
    Benchmark("GPQA Diamond", "science for doctoral students, without tools", 71.5, 80.1, 77.0),
    Benchmark("MMLU", "knowledge in 57 subjects", 85.3, 90.0, 87.0),
    Benchmark("Humanity's Last Exam", "expert questions, with tools", 17.3, 19.0, 13.4),
    Benchmark("Codeforces", "competition programming, with tools", 2516, 2622, 2073, "Elo"),
    Benchmark("SWE-bench Verified", "mending real software", 60.7, 62.4, None),
    Benchmark("Tau-bench Retail", "calling functions", 54.8, 67.8, 57.6),
    Benchmark("HealthBench", "conversations on health", 42.5, 57.6, 37.8),
)

GPT_OSS_20B = ModelFacts(
    title="gpt-oss-20b",
    summary=(
        "OpenAI's open-weight reasoning model for machines with 16 GB. It thinks before it "
        "answers, as long as you ask it to, calls tools and follows schemas."
    ),
    specifications=(
        ("Parameters", "21 billion, 3.6 billion active for each token"),
        ("Architecture", "24 layers, 32 experts in each, 4 of them active"),
        ("Context", "131,072 tokens"),
        ("Weights", "MXFP4 experts, the rest BF16: 13 GB"),
        ("Vocabulary", "o200k_harmony, 201,088 tokens"),
        ("Reasoning", "low, medium or high effort"),
        ("Reads and writes", "text"),
        ("Knowledge until", "June 2024"),
        ("Licence", "Apache 2.0"),
    ),
    good_at=(
        "reasoning in several steps, mathematics and programming",
        "calling functions, also between steps of its reasoning",
        "answers that follow a JSON schema",
        "running where data must not leave the house",
    ),
    limitations=(
        "It knows less than larger models and states wrong facts with confidence.",
        "It reads text only: no images, no sound.",
        "Its reasoning may hold wrong or unwanted content; show it to people with care.",
        "It was trained on English above all.",
    ),
    benchmarks=_BENCHMARKS,
)


def facts_of(names: tuple[str, ...]) -> ModelFacts | None:
    """The facts of the model that one of `names` means, or None where nothing is known."""
    return GPT_OSS_20B if any("gpt-oss-20b" in name for name in names) else None
