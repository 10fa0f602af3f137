"""`osslo bench`."""

from __future__ import annotations

from statistics import median
from typing import Annotated

import typer

from osslo.cli.loading import native_with_bar
from osslo.cli.machine_limits import read_speed, token_bytes
from osslo.cli.measure import Measured, Meter, random_ids
from osslo.cli.output import Output
from osslo.errors import ConfigurationError
from osslo.model.model import Model

LARGEST_ORDINARY_ID = 199_998
"""Ids below are ordinary text in gpt-oss's vocabulary; smaller vocabularies are used whole."""

SPARE_TOKENS = 64
_BAR_WIDTH = 6


def command(
    model: Annotated[
        str | None, typer.Argument(help="Name or path of the model.", show_default=False)
    ] = None,
    *,
    prefill: Annotated[str, typer.Option(help="Prompt lengths, comma-separated.")] = "128,512",
    decode: Annotated[str, typer.Option(help="Depths to generate at.")] = "0,1024",
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate at each depth.")] = 32,
    streams: Annotated[int, typer.Option(min=0, help="Requests at once; 0 leaves it out.")] = 4,
    shared: Annotated[
        int, typer.Option(min=0, help="Tokens that two prompts share; 0 leaves it out.")
    ] = 512,
    repeat: Annotated[int, typer.Option(min=1, help="Measure each row so often.")] = 3,
    threads: Annotated[int | None, typer.Option(help="Compute threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a model on this machine, through the engine that serves it.

    Random token ids are fed, no matter what the model would say, so that runs can be compared.
    Rows show the median; let nothing else run meanwhile. Seconds of a prompt are those to its first
    token. Memory: the part of this machine's reads that decoding used.

    Examples:

        osslo bench

        osslo bench gpt-oss-20b --prefill 512,2048 --decode 0,4096 --streams 8 --json
    """
    output = Output()
    jobs = [f"prefill:{n}" for n in _sizes(prefill, "--prefill")]
    jobs += [f"decode:{n}:{tokens}" for n in _sizes(decode, "--decode")]
    jobs += [f"streams:{streams}:128:{tokens}"] if streams else []
    jobs += [f"prefix:{shared}"] if shared else []
    native = native_with_bar(output, model, threads=threads)
    samples = _run(output, native, jobs, repeat)
    limit = read_speed(native.threads)  # last, since its own memory would count in every peak
    if as_json:
        output.json(
            {
                "model": native.name,
                "threads": native.threads,
                "kernels": native.kernels,
                "read_bytes_per_s": limit,
                "memory_share": {
                    job: _memory_share(native, found, limit)
                    for job, found in samples.items()
                    if job.startswith("decode:")
                },
                "rows": samples,
            }
        )
        return
    output.text(
        f"{native.name}: {native.threads} threads, {native.kernels} kernels, "
        f"memory read at {limit / 1e9:.1f} GB/s"
    )
    columns = ("", "tokens/s", "", "seconds", "Python", "memory", "peak")
    best: dict[str, float] = {}
    for job, found in samples.items():
        best[_kind(job)] = max(best.get(_kind(job), 0.0), median(map(speed, found)))
    rows = []
    for job, found in samples.items():
        share = ""
        if _kind(job) == "decode":
            share = f"{_memory_share(native, found, limit):.0%}"
        rows.append(_row(job, found, best[_kind(job)], share))
    output.table(columns, rows)


def _kind(job: str) -> str:
    return job.partition(":")[0]


def _memory_share(native: Model, found: list[Measured], limit: float) -> float:
    """The part of the machine's reads that decoding used."""
    depth = int(found[0].job.split(":")[1])
    return median(map(speed, found)) * token_bytes(native, depth) / limit


def speed(measured: Measured) -> float:
    """Tokens a second: read for a prefill, generated otherwise (while all streams decode); 0 where
    nothing but the first token was waited for."""
    kind, *numbers = measured.job.split(":")
    if kind == "prefix":
        return 0.0
    if kind == "prefill":
        return int(numbers[0]) / measured.seconds
    return measured.decode_tokens / measured.decode_seconds


def _run(output: Output, native: Model, jobs: list[str], repeat: int) -> dict[str, list[Measured]]:
    context = _context(jobs)
    if context > native.max_context_tokens:
        raise ConfigurationError(
            f"these rows need a context of {context} tokens, the model has "
            f"{native.max_context_tokens}; measure at smaller depths"
        )
    streams = max([int(job.split(":")[1]) for job in jobs if job.startswith("streams")] + [3])
    ids = random_ids(min(native.vocab_size, LARGEST_ORDINARY_ID), streams, context + 1)
    samples: dict[str, list[Measured]] = {job: [] for job in jobs}
    with (
        Meter(native, ids, context_tokens=context, streams=streams) as meter,
        output.progress(unit="runs") as bar,
    ):
        meter.prefill(16)  # pays for page faults
        for number in range(repeat):
            for index, job in enumerate(jobs):
                bar.step("measuring", number * len(jobs) + index, repeat * len(jobs))
                samples[job].append(meter.run(job))
        bar.step("measuring", repeat * len(jobs), repeat * len(jobs))
    return samples


def _context(jobs: list[str]) -> int:
    sizes = []
    for job in jobs:
        kind, *numbers = job.split(":")
        whole = [int(number) for number in numbers]
        sizes.append(whole[0] * sum(whole[1:]) if kind == "streams" else sum(whole))
    return max(sizes, default=0) + SPARE_TOKENS


def _row(job: str, found: list[Measured], best: float, memory_share: str) -> tuple[str, ...]:
    kind, *numbers = job.split(":")
    names = {
        "prefill": "read {0} tokens",
        "decode": "generate {1} after {0}",
        "streams": "{0} at once, {1} + {2}",
        "prefix": "prompt, {0} shared",
    }
    pace = median(map(speed, found))
    seconds = [m.seconds * (m.share if kind == "prefix" else 1.0) for m in found]
    return (
        names[kind].format(*numbers),
        f"{pace:.1f}" if best else "",
        "\u2587" * round(_BAR_WIDTH * pace / best) if best else "",
        f"{median(seconds):.2f}",
        f"{median(sample.python_share for sample in found):.1%}" if best else "",
        memory_share,
        f"{max(sample.rss_gib for sample in found):.2f} GiB",
    )


def _sizes(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigurationError(f"{option} takes numbers with commas, not {text!r}") from None
