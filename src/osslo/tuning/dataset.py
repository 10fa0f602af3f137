"""Files of training data as examples, every fault in them named by file and line.

Chat JSONL is read by `harmony.training`; other files are plain text. Nothing starts before all
of it has been read.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from osslo.errors import ConfigurationError, RequestError
from osslo.harmony.messages import Conversation, ReasoningEffort
from osslo.harmony.training import TrainingLine, TrainingText, parse_training_line
from osslo.tuning.examples import Example, ExampleRenderer
from osslo.types import TokenId

MOST_PROBLEMS = 20
_JSON_LINES = frozenset({".jsonl", ".json", ".ndjson"})
_SMALLEST_SPLIT = 8
"""With fewer documents than this nothing is kept for validation: there would be too little left."""


class BadDataError(RequestError):
    """Training data that cannot be used; `problems` are its faults, one a line."""

    code = "invalid_training_data"

    def __init__(self, problems: Sequence[str], *, more: bool) -> None:
        self.problems = tuple(problems)
        shown = "\n  ".join(problems)
        rest = "\n  and perhaps more" if more else ""
        super().__init__(f"the training data has faults; nothing was started:\n  {shown}{rest}")


@dataclass(frozen=True, slots=True)
class DataOptions:
    """How data becomes examples. `effort` is that of lines that do not say theirs, `date` what the
    system message shows; an example has at most `max_tokens`. `validation_share` of the documents
    is kept for validation where no file is given for it."""

    effort: ReasoningEffort = ReasoningEffort.MEDIUM
    date: str | None = None
    max_tokens: int = 2048
    validation_share: float = 0.1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """One line, or one plain text: its examples, and the conversation to show samples of."""

    examples: tuple[Example, ...]
    conversation: Conversation | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is trained on, and what never is."""

    training: tuple[Document, ...]
    validation: tuple[Document, ...] = ()

    @property
    def learned_tokens(self) -> int:
        return sum(e.learned_tokens for d in self.training for e in d.examples)

    def examples(self) -> list[Example]:
        return [example for document in self.training for example in document.examples]

    def held(self) -> list[Example]:
        return [example for document in self.validation for example in document.examples]


def read_dataset(
    paths: Sequence[Path],
    renderer: ExampleRenderer,
    end: TokenId,
    options: DataOptions,
    *,
    validation: Sequence[Path] = (),
) -> Dataset:
    """Read and render everything. `end` closes a plain text. Raises `BadDataError` with all faults
    (up to `MOST_PROBLEMS`), `ConfigurationError` where a file cannot be read."""
    reader = _Reader(renderer, end, options)
    training = [document for path in paths for document in reader.read(path)]
    held = [document for path in validation for document in reader.read(path)]
    reader.check()
    if not training:
        raise BadDataError([f"{', '.join(map(str, paths))}: no example in it"], more=False)
    if not validation:
        training, held = _split(training, options)
    return Dataset(tuple(training), tuple(held))


def _split(
    documents: list[Document], options: DataOptions
) -> tuple[list[Document], list[Document]]:
    count = round(len(documents) * options.validation_share)
    if options.validation_share > 0 and len(documents) >= _SMALLEST_SPLIT:
        count = max(1, count)
    elif len(documents) < _SMALLEST_SPLIT:
        count = 0
    chosen = set(random.Random(options.seed).sample(range(len(documents)), count))
    kept = [document for i, document in enumerate(documents) if i not in chosen]
    return kept, [documents[i] for i in sorted(chosen)]


@dataclass(slots=True)
class _Reader:
    renderer: ExampleRenderer
    end: TokenId
    options: DataOptions
    problems: list[str] = field(default_factory=list)

    def check(self) -> None:
        if self.problems:
            raise BadDataError(self.problems, more=self._full)

    @property
    def _full(self) -> bool:
        return len(self.problems) >= MOST_PROBLEMS

    def read(self, path: Path) -> Iterator[Document]:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path}: not UTF-8 ({error}); convert it") from error
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror or error}") from error
        if path.suffix.lower() not in _JSON_LINES:
            yield from self._plain(text)
            return
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip() and not self._full:
                document = self._line(line, f"{path}:{number}")
                if document is not None:
                    yield document

    def _line(self, line: str, where: str) -> Document | None:
        try:
            parsed = parse_training_line(line, effort=self.options.effort, date=self.options.date)
            return self._document(parsed)
        except RequestError as error:
            self.problems.append(f"{where}: {error.message}")
            return None

    def _document(self, parsed: TrainingLine | TrainingText) -> Document:
        if isinstance(parsed, TrainingText):
            return Document(tuple(self._windows(parsed.text)))
        examples = self.renderer.turns(parsed.conversation, parsed.silent)
        longest = max(len(example.ids) for example in examples)
        if longest > self.options.max_tokens:
            raise RequestError(
                f"{longest} tokens, the most is {self.options.max_tokens}; shorten it, or raise "
                "--max-tokens"
            )
        return Document(examples, parsed.conversation)

    def _plain(self, text: str) -> Iterator[Document]:
        for example in self._windows(text) if text.strip() else ():
            yield Document((example,))

    def _windows(self, text: str) -> Iterator[Example]:
        """A text in pieces of at most `max_tokens`; the token `end` closes the last."""
        whole = self.renderer.text(text, end=self.end)
        most = self.options.max_tokens
        for start in range(0, len(whole.ids), most):
            ids = whole.ids[start : start + most]
            if len(ids) > 1:
                yield Example(ids, (False,) + (True,) * (len(ids) - 1))
