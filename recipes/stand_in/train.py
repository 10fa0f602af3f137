"""Train the stand-in: LoRA on every matrix of the dense base, and the rows of harmony's markers.

Runs until its steps are done, or until it is told to stop (SIGTERM, SIGINT); the same command goes
on from the last checkpoint. `pid` in the folder is the process to pause (SIGSTOP, SIGCONT).

    python -m recipes.stand_in.train --folder build/tuning/stand-in --steps 2000
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from osslo.model.checkpoints.gguf import GgufFile
from osslo.model.standin import fetch_base
from osslo.model.standin.markers import HARMONY_MARKERS, Marked, add_markers, read_fitted
from osslo.model.tokenizer_sources import from_gguf
from osslo.tuning import attention
from osslo.tuning.examples import ExampleRenderer
from osslo.tuning.loop import Schedule, StepRecord, Trainer
from osslo.tuning.model import TokenRows, Trainable
from recipes.stand_in import base_answers
from recipes.stand_in.mixture import Mixture, MixtureSource, Shares
from tests.model.llama import llama_from_gguf

RANK = 32
ALPHA = 64
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BASE_FOLDER = Path("build/test-cache")


def open_base(folder: Path) -> tuple[Path, Marked]:
    """The base's GGUF, and its tables with the markers in them."""
    path = fetch_base(folder)
    gguf = GgufFile(path)
    return path, add_markers(
        from_gguf(gguf.metadata), gguf.float32("token_embd.weight"), read_fitted()
    )


def start_rows(marked: Marked) -> TokenRows:
    """The markers' rows as training begins. A marker that has no head row starts from what stands
    in its place in ChatML."""
    tokenizer = marked.tokenizer
    ids = [tokenizer.special(name) for name in HARMONY_MARKERS]
    inputs, outputs = marked.embedding[ids].copy(), marked.head[ids].copy()
    newline = tokenizer.encode("\n")[0]
    opener = marked.embedding[tokenizer.specials["<|im_start|>"]]
    for place, name in enumerate(HARMONY_MARKERS):
        if name in ("<|message|>", "<|channel|>", "<|constrain|>"):
            outputs[place] = 0.5 * marked.embedding[newline]
        if name == "<|start|>":
            outputs[place] = opener
    rows = [torch.tensor(np.ascontiguousarray(part)) for part in (inputs, outputs)]
    return TokenRows(torch.tensor(ids), *rows)


def build_trainable(folder: Path) -> tuple[Trainable, Marked]:
    """The dense base with LoRA layers, and its vocabulary."""
    path, marked = open_base(folder)
    torch.manual_seed(0)
    model = llama_from_gguf(path)
    model.resize_token_embeddings(len(marked.embedding), mean_resizing=False)
    model.requires_grad_(requires_grad=False)
    attention.register()
    model.set_attn_implementation(attention.NAME)
    get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(MATRICES), lora_dropout=0.0)
    )
    model.train()
    return Trainable(model, start_rows(marked)), marked


def build_source(marked: Marked, folder: Path, *, seed: int, step_tokens: int) -> MixtureSource:
    """The mixture over the answers that `base_answers` collected in `folder`."""
    pairs = base_answers.read(folder / "base_answers_train.jsonl")
    held = pairs[: len(pairs) // 20]
    return MixtureSource(
        Mixture(pairs[len(held) :], "train", Shares()),
        Mixture(held, "train", Shares()),
        ExampleRenderer(marked.tokenizer),
        seed=seed,
        step_tokens=step_tokens,
        pack_tokens=1024,
        validation_packs=4,
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, default=Path("build/tuning/stand-in"))
    options.add_argument("--answers", type=Path, default=Path("build/tuning"))
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--rate", type=float, default=1e-3)
    options.add_argument("--decay", type=int, default=0)
    options.add_argument("--step-tokens", type=int, default=2000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--workers", type=int, default=2)
    given = options.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "pid").write_text(str(os.getpid()))
    trainable, marked = build_trainable(BASE_FOLDER)
    source = build_source(marked, given.answers, seed=given.seed, step_tokens=given.step_tokens)
    schedule = Schedule(
        given.steps,
        given.rate,
        decay_steps=given.decay,
        validate_every=40,
        checkpoint_every=10,
    )
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    trainer = Trainer(
        trainable,
        source,
        schedule,
        given.folder,
        workers=given.workers,
        report=_show,
        stop=lambda: bool(stopping),
    )
    outcome = trainer.run()
    print(f"{outcome.reason} after {outcome.steps} steps", flush=True)


def _show(record: StepRecord) -> None:
    held = "" if record.validation is None else f"  validation {record.validation:.4f}"
    print(
        f"step {record.step:5}  loss {record.loss:.4f}  {record.tokens / record.seconds:5.0f} tok/s"
        f"  {record.examples} examples  {record.learned} learned  |g| {record.gradient:.2f}{held}",
        flush=True,
    )


if __name__ == "__main__":
    main()
