"""`osslo export`."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from osslo.cli.output import Output, gib
from osslo.errors import ConfigurationError
from osslo.model.adapters.peft import open_adapter
from osslo.model.available import available_memory
from osslo.model.checkpoints import Checkpoint, open_checkpoint
from osslo.model.extras import require_torch
from osslo.opening import Located, locate
from osslo.settings import load_settings
from osslo.tuning.export import (
    LEAST_SURVIVING,
    Merged,
    Survival,
    export_adapter,
    export_merged,
    model_card,
    remove,
)
from osslo.tuning.merged import Experts
from osslo.tuning.plan import tokenizer_of

_PROBE = "The quick brown fox jumps over the lazy dog, and 12 more of them follow by the sea."
_FLOAT_BYTES = 4


class Form(StrEnum):
    ADAPTER = "adapter"
    SAFETENSORS = "safetensors"
    GGUF = "gguf"


def command(
    adapter: Annotated[str, typer.Argument(help="An adapter's name or folder.")],
    out: Annotated[Path, typer.Argument(help="The new folder, or the new GGUF file.")],
    *,
    model: Annotated[
        str | None, typer.Option(help="The base: a name, a checkpoint's folder or a GGUF file.")
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="What is written.")] = Form.SAFETENSORS,
    experts: Annotated[
        Experts, typer.Option(help="What merged experts are rounded to.")
    ] = Experts.BF16,
    least: Annotated[
        float, typer.Option(help="How much of the delta must be left after rounding.")
    ] = LEAST_SURVIVING,
    reload: Annotated[
        bool, typer.Option(help="Load the result in transformers (peft for adapters) too.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Write what was trained for others: an adapter, a merged model, a GGUF file.

    Licence, notice and a model card go with it. Every tensor is read back and compared, and a delta
    that vanished in the rounding is an error.

    Examples:

        osslo export harbour ./harbour-merged

        osslo export harbour ./harbour.gguf --format gguf --experts mxfp4

        osslo export harbour ./harbour-adapter --format adapter
    """
    output = Output()
    settings = load_settings(overrides={"model": model})
    with output.progress() as bar:
        located = locate(settings, bar.step)
    base = open_checkpoint(located.path)
    folder = Path(adapter)
    if not folder.is_dir():
        folder = settings.folders.home / "adapters" / adapter
    if not folder.is_dir():
        raise ConfigurationError(f"there is no adapter {adapter!r}, neither a folder nor {folder}")
    files = open_adapter(folder, base.config)
    merged = Merged(base, files.load())
    verify = _verifier(base, form) if reload else None
    result: dict[str, Any] = {"out": out, "format": form.value}
    if form is Form.ADAPTER:
        export_adapter(folder, base, out)
    else:
        survival = _export(
            output,
            merged,
            out,
            located=located,
            adapter=folder,
            form=form,
            experts=experts,
            least=least,
        )
        result |= {"attention_left": survival.attention, "experts_left": survival.experts}
    if verify is not None:
        result |= _reload(verify, merged, out, form, experts)
    _show(output, result, as_json=as_json)


def _export(
    output: Output,
    merged: Merged,
    out: Path,
    *,
    located: Located,
    adapter: Path,
    form: Form,
    experts: Experts,
    least: float,
) -> Survival:
    card = model_card(out.stem, located.id, adapter.name, experts=experts, form=form.value)
    with output.progress(unit="items") as bar:
        return export_merged(
            merged,
            out,
            gguf=form is Form.GGUF,
            experts=experts,
            card=card,
            least=least,
            progress=lambda done, total: bar.step("writing tensors", done, total),
        )


def _verifier(base: Checkpoint, form: Form) -> Any:
    """The module that loads results elsewhere, before anything is written; None for GGUF, which our
    own reader checks. Raises `ConfigurationError` where memory would not do."""
    if form is Form.GGUF:
        return None
    require_torch()
    config = base.config
    experts = 3 * config.layers * config.experts * config.hidden * config.intermediate
    dense = 2 * config.vocab_size * config.hidden
    needed = 2 * _FLOAT_BYTES * (experts + dense)  # theirs and ours
    if needed > available_memory():
        raise ConfigurationError(
            f"loading the result in transformers takes about {gib(needed)}, which is not there; "
            "--no-reload leaves that check out (tensors are still read back and compared)"
        )
    return import_module("osslo.tuning.verify")  # imports torch: only now


def _reload(verify: Any, merged: Merged, out: Path, form: Form, experts: Experts) -> dict[str, Any]:
    ids = tuple(tokenizer_of(merged.checkpoint).encode(_PROBE)[:48])
    try:
        if form is Form.ADAPTER:
            agreement = verify.by_peft(out, merged, ids)
        else:
            agreement = verify.by_transformers(out, ids, experts)
    except BaseException:
        remove(out)
        raise
    return {"loaded_by": agreement.by, "largest_difference": agreement.difference}


def _show(output: Output, result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.json(result)
        return
    rows = []
    for name, value in result.items():
        share = f"{value:.1%}" if name.endswith("_left") and value is not None else str(value)
        rows.append((name.replace("_", " "), share))
    output.rows(rows)
