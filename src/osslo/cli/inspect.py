"""`osslo inspect`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from osslo.cli.loading import find
from osslo.cli.output import Output, gib
from osslo.cli.pack import PrecisionChoice
from osslo.model.inspection import ModelReport, inspect_checkpoint


def command(
    model: Annotated[
        str,
        typer.Argument(help="Name or path of a model: checkpoint or packed.", show_default=False),
    ],
    *,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor too.")] = False,
    precision: Annotated[
        PrecisionChoice, typer.Option(help="For which precision to plan memory.")
    ] = PrecisionChoice.DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is in a checkpoint and what it costs in memory.

    Nothing is loaded but headers.

    Examples:

        osslo inspect gpt-oss-20b

        osslo inspect gpt-oss-20b.gguf --tensors
    """
    output = Output()
    report = inspect_checkpoint(find(output, model), precision=precision.value)
    if as_json:
        output.json(_fields(report, tensors=tensors))
        return
    output.rows(report.rows())
    output.out.print()
    output.table(
        ("context", "weights", "KV", "scratch", "in all", "fits here"),
        [
            (
                f"{plan.request.context_tokens:,}",
                gib(plan.weights_bytes),
                gib(plan.kv_bytes),
                gib(plan.scratch_bytes),
                gib(plan.total_bytes),
                "yes" if plan.fits else "no",
            )
            for plan in report.plans
        ],
    )
    if tensors:
        output.out.print()
        output.table(
            ("tensor", "type", "shape", "size"),
            [
                (t.name, t.dtype, " x ".join(map(str, t.shape)), gib(t.stored_bytes))
                for t in report.tensors
            ],
        )


def _fields(report: ModelReport, *, tensors: bool) -> dict[str, object]:
    fields = {
        "path": report.path,
        "format": report.format,
        "config": report.config.to_dict(),
        "parameters": report.parameters,
        "active_parameters": report.active_parameters,
        "stored_bytes": report.stored_bytes,
        "has_tokenizer": report.has_tokenizer,
        "plans": [
            asdict(plan) | {"total_bytes": plan.total_bytes, "fits": plan.fits}
            for plan in report.plans
        ],
    }
    return fields | ({"tensors": report.tensors} if tensors else {})
