"""What is written about a run: the report in its folder, and the card that goes with the result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from osslo.tuning.learning import Method
from osslo.tuning.loop import Outcome, StepRecord
from osslo.tuning.picture import loss_curve
from osslo.tuning.plan import Plan
from osslo.tuning.sampling import Sample

CURVE_NAME = "loss.svg"


def curve(records: Sequence[StepRecord]) -> str:
    """The loss curve as an SVG."""
    validation = [(r.step + 1, r.validation) for r in records if r.validation is not None]
    return loss_curve([(r.step + 1, r.loss) for r in records], validation)


def report(plan: Plan, outcome: Outcome, before: Sequence[Sample], after: Sequence[Sample]) -> str:
    """The report, Markdown."""
    records = outcome.records
    seconds = sum(record.seconds for record in records)
    tokens = sum(record.tokens for record in records)
    rows = [
        *plan.rows(),
        ("ended", f"{outcome.reason} after {outcome.steps:,} steps"),
        ("time", f"{seconds / 60:.1f} minutes, {tokens / max(seconds, 1e-9):,.0f} tokens/s"),
        ("training loss", f"{records[0].loss:.4f} at first, {records[-1].loss:.4f} at last"),
    ]
    if outcome.best_validation is not None:
        rows.append(("validation loss", f"{outcome.best_validation:.4f} at best (kept)"))
    parts = [f"# Fine-tuning of {plan.options.base}", f"![loss]({CURVE_NAME})", _table(rows)]
    pairs = list(zip(before, after, strict=True))
    if pairs:
        parts.append(
            "## Samples\n\nGreedy, of prompts that were not trained on where there is "
            "validation data."
        )
    for number, (first, second) in enumerate(pairs, start=1):
        parts += [
            f"### {number}",
            "Prompt (its end):\n\n" + _quoted(first.prompt),
            "Wanted:\n\n" + _quoted(first.wanted),
            "Before:\n\n" + _quoted(first.answer),
            "After:\n\n" + _quoted(second.answer),
        ]
    return "\n\n".join(parts) + "\n"


def card(plan: Plan, outcome: Outcome) -> str:
    """The model card of an adapter or a model."""
    options = plan.options
    lora = options.learning.method is Method.LORA
    kind = "A LoRA adapter for" if lora else "A full fine-tuning of"
    rows = [row for row in plan.rows() if row[0] in ("method", "data", "validation", "steps")]
    rows.append(("rate, seed", f"{options.rate:g}, {options.seed}"))
    if outcome.best_validation is not None:
        rows.append(("validation loss", f"{outcome.best_validation:.4f}"))
    head = ["---", f"base_model: {options.base}", "license: apache-2.0"]
    head += ["library_name: peft"] if lora else []
    head += ["tags: [gpt-oss, osslo]", "---"]
    return (
        "\n\n".join(
            [
                "\n".join(head),
                f"# {options.out.name}",
                f"{kind} `{options.base}`, made with `osslo tune`.",
                _table(rows),
                "## Licence\n\nThe base's licence (Apache-2.0 for gpt-oss and the stand-in) "
                "holds for what is made from it. What the training data demands is for "
                "whoever made this to add.",
            ]
        )
        + "\n"
    )


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _quoted(text: str) -> str:
    fence = "````" if "```" in text else "```"
    return f"{fence}text\n{text}\n{fence}"
