"""Does llama.cpp read what `osslo export --format gguf` writes?

A random gpt-oss model within llama.cpp's limits (no YaRN, see `bench.agreement`) is tuned for a few
steps, merged, and exported with experts in MXFP4 and in BF16. llama.cpp's logits of both files are
compared with those of our exact engine, beside what the tuning changed.

    python -m bench.exported_gguf [--build build/peers]
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench import machine, peer_build
from bench.agreement import CONFIG, ROOT, SEED, Difference, difference, run_osslo, run_peer
from bench.rounding import Quiet, options
from osslo.model.adapters.peft import open_adapter
from osslo.model.checkpoints import open_checkpoint
from osslo.model.synth import write_random
from osslo.tuning.export import Merged, export_merged
from osslo.tuning.learning import Learning
from osslo.tuning.merged import Experts
from osslo.tuning.plan import make_plan
from osslo.tuning.run import execute

CONTEXT = 1024


def tuned(folder: Path) -> Merged:
    """A random model with an adapter that a few steps of tuning made."""
    config = replace(CONFIG, layers=4, layer_kinds=CONFIG.layer_kinds[:4], max_context=CONTEXT)
    base = write_random(config, folder / "base", seed=SEED)
    plan = make_plan(
        options(
            base,
            folder / "run",
            ("docs/tuning.md",),
            learning=Learning(rank=8, alpha=16.0),
            steps=12,
            rate=5e-3,
            step_tokens=512,
        )
    )
    execute(plan, Quiet())
    return Merged(open_checkpoint(base), open_adapter(plan.options.out, config).load())


def show(name: str, found: Difference) -> None:
    """A row of the table."""
    numbers = f"{found.mean_kl:.1e} | {found.greedy:.2%} | {found.largest:.1e}"
    print(f"| {name} | {found.positions} | {numbers} |", flush=True)


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("--build", type=Path, default=ROOT / "build" / "peers")
    given.add_argument("--folder", type=Path, default=ROOT / "build" / "exported")
    given.add_argument("--tokens", type=int, default=512)
    chosen = given.parse_args()
    shutil.rmtree(chosen.folder, ignore_errors=True)
    peer = peer_build.build(chosen.build)
    merged = tuned(chosen.folder)
    vocabulary = merged.checkpoint.config.vocab_size
    ids = np.random.default_rng(SEED).integers(0, vocabulary, chosen.tokens, np.int32)
    print(f"{machine.describe()}\nllama.cpp of {peer.version}")
    print("| GGUF | positions | mean KL | greedy | largest difference |\n|---|---|---|---|---|")
    for experts in Experts:
        folder = chosen.folder / experts.value
        folder.mkdir()
        for name, source in (("tuned", merged), ("base", Merged(merged.checkpoint, None))):
            export_merged(
                source, folder / f"{name}.gguf", gguf=True, experts=experts, card="", least=0.0
            )
        ours = run_osslo(folder / "tuned.gguf", ids, "exact")
        theirs = run_peer(peer.driver, folder / "tuned.gguf", ids, kv_bits=16)
        show(f"experts {experts.value}: llama.cpp against Osslo exact", difference(theirs, ours))
        base = run_osslo(folder / "base.gguf", ids, "exact")
        show(f"experts {experts.value}: base against tuned", difference(base, ours))


if __name__ == "__main__":
    main()
