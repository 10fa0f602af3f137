"""The models a server offers: under which names, and what each really is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from osslo.engine.backend import Backend
from osslo.errors import ConfigurationError, ModelNotFoundError
from osslo.harmony.grammar_cache import GrammarCache
from osslo.harmony.messages import Conversation
from osslo.harmony.vocabulary import Vocabulary
from osslo.types import BackendStats, Grammar

AT_ONCE_CHARACTERS = 1000
"""The most text (or ids) of a prompt that is encoded on the event loop: half a millisecond, or two
where nothing in it merges. To wake a thread and be woken by it takes a third of one when idle."""

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
    `adapters` are those it can be served with, `adapter` the one that this record is of.
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
    adapters: AdapterNames | None = field(default=None, compare=False, repr=False)
    adapter: str | None = None
    grammars: GrammarCache = field(default_factory=GrammarCache, compare=False, repr=False)

    @property
    def context_tokens(self) -> int:
        return self.backend.max_context_tokens

    @property
    def base_id(self) -> str:
        """The id of the model without its adapter."""
        return self.id if self.adapter is None else self.id.removesuffix(f":{self.adapter}")

    def with_adapter(self, name: str, created: int = 0) -> ServedModel:
        """The same model as it answers with an adapter."""
        return replace(
            self,
            id=f"{self.id}:{name}",
            aliases=tuple(f"{alias}:{name}" for alias in self.aliases),
            adapter=name,
            note=f"{self.id} with the adapter {name}. {self.note}".rstrip(),
            created=created or self.created,
            # What the base was found to be does not hold for what somebody trained it to be.
            reasons=True,
            default_grammar=None,
        )


class AdapterNames(Protocol):
    """Which adapters a model may be served with at this moment."""

    def offered(self) -> Sequence[tuple[str, int]]:
        """Names and when they were added, in seconds of Unix time."""
        ...


class ModelRegistry:
    """Finds a served model by id or alias. The models are fixed once built; their adapters come and
    go: `MODEL:NAME` is the model with the adapter NAME, under any name of the model."""

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
        """Every name that callers may use, ids before aliases and adapters after both, with the
        model behind it."""
        plain = sorted(self._by_name.items(), key=lambda item: item[0] != item[1].id)
        tuned = [
            model.with_adapter(name, created)
            for model in self._models
            if model.adapters is not None
            for name, created in model.adapters.offered()
        ]
        both = [(name, model) for model in tuned for name in (model.id, *model.aliases)]
        both.sort(key=lambda item: item[0] != item[1].id)
        return dict([*plain, *both])

    def get(self, name: str) -> ServedModel:
        """The model called `name`. Raises `ModelNotFoundError` that lists the names there are."""
        model = self._by_name.get(name) or self._with_adapter(name)
        if model is None:
            raise ModelNotFoundError(
                f"The model {name!r} is not served here; there are: {', '.join(self.names())}.",
                param="model",
            )
        return model

    def _with_adapter(self, name: str) -> ServedModel | None:
        base, _, adapter = name.rpartition(":")
        model = self._by_name.get(base)
        if model is None or model.adapters is None:
            return None
        created = dict(model.adapters.offered()).get(adapter)
        return None if created is None else model.with_adapter(adapter, created)

    def stats(self) -> Mapping[str, BackendStats]:
        """The load of each model's backend, by id."""
        return {model.id: model.backend.stats() for model in self._models}

    @property
    def ready(self) -> bool:
        """Every model takes requests."""
        return all(model.backend.ready for model in self._models)
