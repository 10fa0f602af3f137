"""The files that both engines measure on: models, token ids, and where states are kept."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
STREAM_TOKENS = 40_960
"""Ids of one stream; the driver has the same number."""

STREAMS = 8
SEED = 20_250_805
ORDINARY_IDS_20B = 199_998
"""Ids below this are text in o200k_harmony; the special ones come after."""

ORDINARY_IDS_STAND_IN = 49_000


@dataclass(frozen=True, slots=True)
class Files:
    """What the engines read and write."""

    model: Path
    peer_model: Path
    ids: Path
    state: Path


def write_ids(path: Path, vocab_size: int) -> None:
    """Seeded random ids, below the special ones, int32 `[STREAMS, STREAM_TOKENS]`."""
    rng = np.random.default_rng(SEED)
    ids = rng.integers(0, vocab_size, (STREAMS, STREAM_TOKENS), dtype=np.int32)
    path.write_bytes(ids.tobytes())


def full_size(build: Path) -> Files:
    """The synthetic gpt-oss-20b in GGUF, as ggml-org publishes the real one; both read it."""
    model = build / "gpt-oss-20b-synthetic.gguf"
    if not model.is_file():
        sys.stdout.write("writing the synthetic gpt-oss-20b (12 GB)\n")
        command = [str(Path(sys.executable).parent / "osslo"), "synth", str(model)]
        subprocess.run([*command, "--preset", "gpt-oss-20b", "--format", "gguf"], check=True)
    ids, state = build / "ids-20b.bin", build / "state-20b"
    state.mkdir(exist_ok=True)
    write_ids(ids, ORDINARY_IDS_20B)
    return Files(model, model, ids, state)


def stand_in(build: Path, quantize: Path) -> Files:
    """The stand-in's base as Q8_0 Llama GGUF for llama.cpp, and the stand-in for Osslo."""
    command = [sys.executable, str(ROOT / "bench" / "standin_files.py"), str(build / "standin")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    peer_model = build / "standin" / "base-q8_0.gguf"
    if not peer_model.is_file():
        source = [str(quantize), "--allow-requantize", found["base"], str(peer_model), "Q8_0"]
        subprocess.run(source, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ids, state = build / "ids-standin.bin", build / "state-standin"
    state.mkdir(exist_ok=True)
    write_ids(ids, ORDINARY_IDS_STAND_IN)
    return Files(Path(found["model"]), peer_model, ids, state)
