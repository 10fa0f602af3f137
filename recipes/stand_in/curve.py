"""A run's losses as a picture: python -m recipes.stand_in.curve --out docs/stand-in-curve.svg"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from osslo.tuning.loop import StepRecord, read_log

WIDTH, HEIGHT, MARGIN = 640, 300, 46


def draw(records: Sequence[StepRecord]) -> str:
    """An SVG of the loss a learned token over the tokens seen, on a logarithmic scale; validations
    are dots."""
    seen, total = [], 0
    for record in records:
        total += record.tokens
        seen.append(total)
    held = [(at, r.validation) for at, r in zip(seen, records, strict=True) if r.validation]
    losses = [record.loss for record in records] + [loss for _, loss in held]
    low, high = math.log10(min(losses)), math.log10(max(losses))

    def place(tokens: float, loss: float) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * tokens / total
        y = MARGIN + (HEIGHT - 2 * MARGIN) * (high - math.log10(loss)) / (high - low)
        return round(x, 1), round(y, 1)

    line = " ".join(
        "{},{}".format(*place(at, record.loss)) for at, record in zip(seen, records, strict=True)
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for loss in (0.05, 0.1, 0.2, 0.5, 1, 2, 4):
        if low <= math.log10(loss) <= high:
            y = place(0, loss)[1]
            parts.append(f'<path d="M{MARGIN} {y}H{WIDTH - MARGIN}" stroke="#ddd"/>')
            parts.append(f'<text x="{MARGIN - 6}" y="{y + 4}" text-anchor="end">{loss}</text>')
    parts.append(f'<polyline points="{line}" fill="none" stroke="#2563eb"/>')
    for at, validation in held:
        x, y = place(at, validation)
        parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="#dc2626"/>')
    foot = f"{total:,} tokens in {len(records)} steps; red: validation"
    parts.append(f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 16}" text-anchor="end">{foot}</text>')
    parts.append(f'<text x="{MARGIN}" y="24">loss, nats a learned token</text></svg>')
    return "\n".join(parts) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", type=Path, default=Path("build/tuning/stand-in"))
    options.add_argument("--out", type=Path, default=Path("docs/stand-in-curve.svg"))
    given = options.parse_args()
    given.out.write_text(draw(read_log(given.folder)), encoding="utf-8")


if __name__ == "__main__":
    main()
