"""`osslo tune`."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from osslo.cli.output import Output
from osslo.errors import ConfigurationError
from osslo.harmony.effort import parse_effort
from osslo.harmony.messages import ReasoningEffort
from osslo.model.extras import require_torch
from osslo.model.packed_file import SUFFIX
from osslo.opening import Located, locate
from osslo.settings import load_settings
from osslo.tuning.dataset import DataOptions
from osslo.tuning.events import EventLines
from osslo.tuning.learning import Learning, Method
from osslo.tuning.plan import RUN_NAME, Plan, TuneOptions, make_plan

if TYPE_CHECKING:
    from osslo.tuning.loop import StepRecord
    from osslo.tuning.run import Result

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_INTERRUPTED = 130


class DtypeChoice(StrEnum):
    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class DeviceChoice(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def command(
    data: Annotated[
        list[Path], typer.Argument(help="Chat JSONL (OpenAI's format), or plain text.")
    ],
    *,
    name: Annotated[str, typer.Option(help="What the result is called.")],
    model: Annotated[
        str | None, typer.Option(help="A name, a checkpoint's folder or a GGUF file.")
    ] = None,
    method: Annotated[
        Method, typer.Option(help="An adapter, or every weight (small models).")
    ] = Method.LORA,
    rank: Annotated[int, typer.Option(help="LoRA's rank.")] = 16,
    alpha: Annotated[
        float | None, typer.Option(help="LoRA's alpha; twice the rank if not given.")
    ] = None,
    attention: Annotated[bool, typer.Option(help="LoRA on the attention's projections.")] = True,
    experts: Annotated[bool, typer.Option(help="LoRA on the experts.")] = True,
    router: Annotated[bool, typer.Option(help="Let a full fine-tuning move the router.")] = False,
    rounding: Annotated[
        bool,
        typer.Option(help="Train with experts rounded to MXFP4, for an export that rounds them."),
    ] = False,
    epochs: Annotated[int, typer.Option(help="How often the data is gone through.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Steps, instead of epochs.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Learning rate; 5e-4 for LoRA, 2e-5 for full.")
    ] = None,
    step_tokens: Annotated[int, typer.Option(help="Tokens that a step learns from.")] = 1024,
    pack_tokens: Annotated[int, typer.Option(help="Tokens computed together.")] = 512,
    max_tokens: Annotated[int, typer.Option(help="The longest example.")] = 2048,
    effort: Annotated[
        str, typer.Option(help="Reasoning effort of examples that do not say theirs.")
    ] = "medium",
    date: Annotated[
        str | None, typer.Option(help="The date that prompts show (2026-11-26), or none.")
    ] = None,
    validation: Annotated[
        list[Path] | None, typer.Option(help="Validation data; else a share of the data.")
    ] = None,
    validation_share: Annotated[float, typer.Option(help="That share.")] = 0.1,
    patience: Annotated[
        int, typer.Option(help="Validations without a better one before stopping; 0 never stops.")
    ] = 3,
    samples: Annotated[int, typer.Option(help="Answers shown before and after.")] = 3,
    sample_tokens: Annotated[int, typer.Option(help="Their longest.")] = 64,
    seed: Annotated[int, typer.Option(help="Decides every random draw.")] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Packs computed side by side; else one a processor.")
    ] = None,
    device: Annotated[DeviceChoice, typer.Option(help="Where to compute.")] = DeviceChoice.AUTO,
    dtype: Annotated[
        DtypeChoice, typer.Option(help="Matrix products; auto is bfloat16 where it is fast.")
    ] = DtypeChoice.AUTO,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 10,
    out: Annotated[
        Path | None, typer.Option(help="The result's folder; else below OSSLO_HOME.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and plan only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Teach a model your data: a LoRA adapter, or every weight of a small model.

    Data is checked first, and every fault named with its line. Ctrl-C saves; the same command goes
    on where it was. The adapter is in PEFT's layout; the report, the loss curve and the checkpoints
    lie in OSSLO_HOME/tuning/NAME.

    Examples:

        osslo tune examples/tuning/harbour.jsonl --name harbour

        osslo tune chats.jsonl --model gpt-oss-20b --name support --epochs 2 --rank 8

        osslo tune notes.txt --model ~/models/small --name notes --method full

        osslo tune chats.jsonl --name support --dry-run
    """
    require_torch()
    if not _NAME.fullmatch(name):
        raise ConfigurationError("--name: lower-case letters, digits, . _ -; at most 64")
    settings = load_settings(overrides={"model": model})
    output = Output()
    with output.progress() as bar:
        located = locate(settings, bar.step)
    if located.path.suffix == SUFFIX:
        raise ConfigurationError(f"{located.path} is packed; give the checkpoint it came from")
    home = settings.folders.home
    folder = home / "tuning" / name
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    learning = Learning(
        method, rank, 2.0 * rank if alpha is None else alpha, attention, experts, router, rounding
    )
    options = TuneOptions(
        model=located.path,
        base=located.id,
        data=tuple(data),
        folder=folder,
        out=out or home / ("adapters" if method is Method.LORA else "models") / name,
        validation=tuple(validation or ()),
        learning=learning,
        reading=DataOptions(
            effort=_effort(effort),
            date=_date(date, folder, located),
            max_tokens=max_tokens,
            validation_share=validation_share,
            seed=seed,
        ),
        epochs=epochs,
        steps=steps,
        rate=rate or (5e-4 if method is Method.LORA else 2e-5),
        step_tokens=step_tokens,
        pack_tokens=pack_tokens,
        patience=patience,
        checkpoint_every=checkpoint_every,
        samples=samples,
        sample_tokens=sample_tokens,
        seed=seed,
        workers=workers,
        device=device.value,
        dtype=dtype.value,
    )
    plan = make_plan(options)
    _show_plan(output, plan, as_json=as_json)
    if not dry_run:
        _carry_out(output, plan, as_json=as_json)


def _carry_out(output: Output, plan: Plan, *, as_json: bool) -> None:
    run = import_module("osslo.tuning.run")  # imports torch: only now, and only here
    with _stopping(output) as stop:
        if as_json:
            result: Result = run.execute(plan, EventLines(output.text), stop=lambda: bool(stop))
        else:
            with _watching(output) as bars:
                result = run.execute(plan, bars, stop=lambda: bool(stop))
    _show_result(output, result, as_json=as_json)
    if result.out is None:
        raise typer.Exit(_INTERRUPTED)


@contextmanager
def _stopping(output: Output) -> Iterator[list[int]]:
    """The first Ctrl-C (or SIGTERM) ends the run after its step, the second at once."""
    stop: list[int] = []

    def ask(number: int, _frame: Any) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.append(number)
        output.note("saving after this step; Ctrl-C again ends at once (the last checkpoint stays)")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _effort(text: str) -> ReasoningEffort:
    return parse_effort(text, param="--effort")


def _date(given: str | None, folder: Path, located: Located) -> str | None:
    """The date that serving will show: none for the stand-in, today's for others. A run that goes
    on keeps its own."""
    if given is not None:
        return None if given == "none" else given
    stored = folder / RUN_NAME
    if stored.exists():
        begun: str | None = json.loads(stored.read_text("utf-8"))["reading"]["date"]
        return begun
    return None if located.stand_in else datetime.now(UTC).date().isoformat()


# --- what is shown --------------------------------------------------------------------------------


def _show_plan(output: Output, plan: Plan, *, as_json: bool) -> None:
    if as_json:
        EventLines(output.text).plan(plan)
        return
    output.rows(plan.rows(), title=f"{plan.options.out.name}: the plan")
    if plan.resumes:
        output.note("going on from the last checkpoint")


def _show_result(output: Output, result: Result, *, as_json: bool) -> None:
    outcome = result.outcome
    if as_json:
        EventLines(output.text).result(result)
        return
    if result.out is None:
        output.text(f"saved after {outcome.steps} steps; the same command goes on")
        return
    for first, second in zip(result.before, result.after, strict=True):
        output.text("")
        output.note(f"prompt …{first.prompt[-120:]}")
        output.text(f"before  {first.answer}\nafter   {second.answer}")
    output.text("")
    output.text(f"{outcome.reason} after {outcome.steps} steps")
    output.rows([("result", str(result.out)), ("report", str(result.report))])


@contextmanager
def _watching(output: Output) -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=output.err) as shown:
        yield _Bars(shown)


class _Bars:
    """Events as progress bars."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._tasks: dict[str, Any] = {}

    def stage(self, what: str, done: int, total: int) -> None:
        self._update(what, done, total, "")

    def step(self, record: StepRecord, steps: int) -> None:
        speed = record.tokens / max(record.seconds, 1e-9)
        detail = f"loss {record.loss:.3f}, {speed:,.0f} tokens/s"
        if record.validation is not None:
            detail += f", validation {record.validation:.3f}"
            self._shown.console.print(
                f"step {record.step + 1}: loss {record.loss:.4f}, "
                f"validation {record.validation:.4f}",
                style="dim",
            )
        self._update("training", record.step + 1, steps, detail)

    def _update(self, what: str, done: int, total: int, detail: str) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._shown.add_task(what, total=total, detail="")
        self._shown.update(self._tasks[what], completed=done, total=total, detail=detail)
