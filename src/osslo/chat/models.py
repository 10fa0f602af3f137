"""The models a server offers: under which names, and what each really is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from osslo.engine.backend import Backend
from osslo.errors import ConfigurationError, ModelNotFoundError
from osslo.harmony.grammar_cache import GrammarCache
from osslo.harmony.messages import Conversation
from osslo.harmony.vocabulary import Vocabulary
from osslo.types import BackendStats, Grammar

_TRAINED = Conversation(messages=())


@dataclass(frozen=True, slots=True)
class PromptProfile:
    """What a model's system message says. The defaults are the ones gpt-oss was trained with."""

    identity: str = _TRAINED.identity
    knowledge_cutoff: str = _TRAINED.knowledge_cutoff
    show_date: bool = True


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model: its own `id`, further names, and everything a turn needs.

    `note` says plainly what it is. `created` is in seconds of Unix time. `default_grammar` keeps
    the output of a model that was not tuned for harmony in form where a request brings no grammar
    of its own; `reasons` False says that this model's analysis is of no use and is skipped.
    `grammars` remembers the grammars of earlier requests.
    """

    id: str
    backend: Backend
    vocabulary: Vocabulary
    aliases: tuple[str, ...] = ()
    note: str = ""
    created: int = 0
    owned_by: str = "osslo"
    reasons: bool = True
    default_grammar: Grammar | None = None
    prompt: PromptProfile = PromptProfile()
    grammars: GrammarCache = field(default_factory=GrammarCache, compare=False, repr=False)

    @property
    def context_tokens(self) -> int:
        return self.backend.max_context_tokens


class ModelRegistry:
    """Finds a served model by id or alias. Fixed once built."""

    def __init__(self, models: tuple[ServedModel, ...]) -> None:
        self._models = models
        self._by_name: dict[str, ServedModel] = {}
        for model in models:
            for name in (model.id, *model.aliases):
                if name in self._by_name:
                    raise ConfigurationError(f"two served models are called {name!r}")
                self._by_name[name] = model

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def names(self) -> Mapping[str, ServedModel]:
        """Every name that callers may use, ids before aliases, with the model behind it."""
        return dict(sorted(self._by_name.items(), key=lambda item: item[0] != item[1].id))

    def get(self, name: str) -> ServedModel:
        """The model called `name`. Raises `ModelNotFoundError` that lists the names there are."""
        model = self._by_name.get(name)
        if model is None:
            raise ModelNotFoundError(
                f"The model {name!r} is not served here; there are: {', '.join(self.names())}.",
                param="model",
            )
        return model

    def stats(self) -> Mapping[str, BackendStats]:
        """The load of each model's backend, by id."""
        return {model.id: model.backend.stats() for model in self._models}

    @property
    def ready(self) -> bool:
        """Every model takes requests."""
        return all(model.backend.ready for model in self._models)
