"""The judge: scores from log-probabilities, windows, and policies that operators write."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from osslo.chat.events import ContentLogprob
from osslo.chat.judge import WINDOW_TOKENS, Judge, Verdict, verdict_scores, yes_probability
from osslo.chat.models import ServedModel
from osslo.chat.moderation import CATEGORIES, GuardMode, load_policy
from osslo.errors import ConfigurationError
from osslo.types import Usage
from tests.scripted import ByteVocabulary, Script, ScriptedBackend


def token(text: str, probability: float, *others: tuple[str, float]) -> ContentLogprob:
    top = tuple(ContentLogprob(t, t.encode(), math.log(p)) for t, p in others)
    return ContentLogprob(text, text.encode(), math.log(probability), top)


def test_a_score_is_the_models_own_probability() -> None:
    chosen = token("no", 0.6, ("no", 0.6), ("yes", 0.2), ("Yes", 0.1), ("maybe", 0.1))
    assert yes_probability(chosen) == pytest.approx(0.3 / 0.9)
    assert yes_probability(token(' "yes', 0.9, (' "no', 0.1))) == pytest.approx(0.9)
    assert yes_probability(token("n", 0.9, ("not", 0.05), ("y", 0.05))) == pytest.approx(
        0.05 / 0.95
    )


def test_an_answer_that_is_not_listed_counts_as_the_last_that_is() -> None:
    assert yes_probability(token("no", 0.9, ("no", 0.9), ("perhaps", 0.1))) == pytest.approx(0.1)


def test_each_verdict_of_a_form_is_found_however_it_is_cut_into_tokens() -> None:
    forced = [token(text, 1.0) for text in ('{"a":', '"', '","yes/no":"', '", "c": "', '"}')]
    verdicts = [token("yes", 0.8, ("no", 0.2)), token("n", 0.7, ("y", 0.3)), token("no", 0.9)]
    records = [*forced[:2], verdicts[0], forced[2], verdicts[1], token("o", 1.0), forced[3]]
    scores = verdict_scores([*records, verdicts[2], forced[4]])
    assert scores == pytest.approx([0.8, 0.3, 0.5])


def test_the_shipped_policy_has_every_category_of_openais() -> None:
    policy = load_policy(None)
    assert tuple(policy.thresholds) == CATEGORIES
    assert all(f"- {name}: " in policy.instructions for name in CATEGORIES)


def test_a_policy_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        'instructions = "Judge: {categories}"\nthreshold = 0.7\n'
        '[thresholds]\nhate = 0.2\n[categories]\nhate = "x"\nviolence = "y"\n'
    )
    policy = load_policy(path)
    assert dict(policy.thresholds) == {"hate": 0.2, "violence": 0.7}
    assert policy.instructions == "Judge: - hate: x\n- violence: y"
    assert policy.digest != load_policy(None).digest
    merged = Judge(policy).merged(
        [
            Verdict({"hate": 0.1, "violence": 0.8}, ("violence",), Usage(10, 2)),
            Verdict({"hate": 0.3, "violence": 0.0}, ("hate",), Usage(5, 2)),
        ]
    )
    assert merged == Verdict({"hate": 0.3, "violence": 0.8}, ("hate", "violence"), Usage(15, 4))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[", "cannot be read"),
        ('instructions = "no list"\n[categories]\nhate = "x"', "{categories}"),
        ('instructions = "{categories}"', "[categories]"),
        ('instructions = "{categories}"\n[categories]\nspam = "x"', "spam"),
        ('instructions = "{categories}"\nthreshold = 2\n[categories]\nhate = "x"', "threshold"),
        (
            'instructions = "{categories}"\n[thresholds]\nhate = 0.5\n[categories]\nsexual="x"',
            "hate",
        ),
        ('instructions = "{categories}"\nmood = 1\n[categories]\nhate = "x"', "mood"),
    ],
)
def test_a_policy_that_cannot_be_used_says_why(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load_policy(path)
    assert why in refused.value.message
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_policy(tmp_path / "none.toml")


async def test_a_long_text_is_judged_in_windows_that_miss_nothing() -> None:
    backend = ScriptedBackend(Script(), max_context_tokens=1 << 17)
    model = ServedModel("m", backend, ByteVocabulary())
    judge = Judge(load_policy(None))
    text = "".join(f"<{number}>" for number in range(1000))
    windows = await judge.windows(model, text)
    assert len(windows) > 3
    assert all(any(f"<{number}>" in window for window in windows) for number in range(1000))
    assert all(len(window) <= WINDOW_TOKENS for window in windows)
    grown = await judge.windows(model, text + "and more")
    assert grown[: len(windows) - 1] == windows[:-1]
    assert await judge.windows(model, "short") == ("short",)


def test_guards_add_up() -> None:
    off, asked, answered, both = GuardMode
    assert off.with_(None) is off
    assert off.with_(asked) is asked
    assert asked.with_(off) is asked
    assert asked.with_(answered) is both
    assert both.with_(answered) is both
