"""Do Osslo and llama.cpp compute the same model? `make agreement`.

Both get one random gpt-oss GGUF without YaRN (llama.cpp rounds YaRN's range to whole dimensions,
gpt-oss does not) and the same ids, and give the logits of every position. Measured against Osslo's
exact precision: KL divergence, greedy agreement and the largest difference. llama.cpp also runs on
the same weights written as float32, so that its rounding of activations and its mathematics can be
told apart. Positions where some router nearly ties also count apart: there, rounding chooses
another expert, and its whole output is the difference.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import machine, peer_build
from bench.peers import commit, say
from osslo.engine.engine import Engine
from osslo.engine.limits import EngineLimits
from osslo.kernels import reference as kernels
from osslo.model.checkpoints import Checkpoint, open_checkpoint
from osslo.model.checkpoints.gguf import GgmlType, GgufFile
from osslo.model.checkpoints.writing import GgufSpec, gguf_writer
from osslo.model.config import ModelConfig
from osslo.model.forward import PageKind
from osslo.model.model import Model
from osslo.model.pack import Precision, pack
from osslo.model.reference import ReferenceModel
from osslo.model.synth import write_random

ROOT = Path(__file__).parent.parent
SEED = 20_250_805
LAYERS = 8
CONFIG = ModelConfig(
    hidden=512,
    layers=LAYERS,
    heads=8,
    kv_heads=2,
    head_dim=64,
    intermediate=512,
    experts=16,
    experts_per_token=4,
    vocab_size=4096,
    layer_kinds=(PageKind.WINDOW, PageKind.FULL) * (LAYERS // 2),
    sliding_window=128,
    rope_theta=150_000.0,
    yarn=None,
    max_context=4096,
)
"""gpt-oss-20b's window, heads and limit of 7, in a size that NumPy can follow."""

BIAS_GAIN = 20.0
"""Random weights keep gate and up near 1. Biases of 2 take 0.05 % of gates and 0.1 % of ups past
the limit of 7: about one and two a token in every layer."""

NEAR_TIES = (1e-3, 1e-2, 1e-1)
"""Router margins (logit of the last expert chosen, less that of the first one left out) below
which a position counts as a near-tie."""

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Difference:
    """How far some positions' logits are from the baseline's. KL in nats, of the distribution
    from the baseline's; `largest` is |difference| over the baseline's largest |logit|."""

    positions: int
    mean_kl: float
    max_kl: float
    greedy: float
    largest: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs compared: on all positions, and on those without a near-tie, by its bound."""

    name: str
    baseline: str
    everywhere: Difference
    clear: dict[str, Difference]


# --- the model ------------------------------------------------------------------------------------


def write_models(folder: Path) -> tuple[Path, Path]:
    """The random model as gpt-oss is published (MXFP4 and Q8_0), and the same values in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    published, plain = folder / "random.gguf", folder / "random-f32.gguf"
    published.unlink(missing_ok=True)
    write_random(CONFIG, published, format="gguf", seed=SEED)
    raise_biases(published)
    file = GgufFile(published)
    specs = [GgufSpec(t.name, GgmlType.F32, t.shape) for t in file.tensors.values()]
    with gguf_writer(plain, file.metadata, specs) as writer:
        for spec in specs:
            writer.write(spec.name, file.float32(spec.name))
    return published, plain


def raise_biases(path: Path) -> None:
    """Multiply the biases of gate and up, in the file."""
    for tensor in GgufFile(path).tensors.values():
        if tensor.name.endswith(("ffn_gate_exps.bias", "ffn_up_exps.bias")):
            values = np.memmap(path, np.float32, "r+", tensor.offset, tensor.shape)
            values *= np.float32(BIAS_GAIN)
            values.flush()


# --- the runs -------------------------------------------------------------------------------------


class Routers(ReferenceModel):
    """The NumPy model, taking down how near its routers come to another choice."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self.margins: list[NDArray[np.float32]] = []

    def record(self, name: str, normed: NDArray[np.float32]) -> None:
        """Take down the margin of every row of router `name`."""
        scores = kernels.matmul(normed, self._matrix(name)) + self._vector(f"{name}_bias")
        ordered = np.sort(scores, axis=1)[:, ::-1]
        chosen = self.config.experts_per_token
        self.margins.append(ordered[:, chosen - 1] - ordered[:, chosen])

    def _norm(self, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        normed = super()._norm(name, x)
        if name.endswith("mlp_norm"):
            self.record(name.replace("mlp_norm", "router"), normed)
        return normed


def run_numpy(path: Path, ids: NDArray[np.int32]) -> tuple[Logits, NDArray[np.float32]]:
    """Logits, and each position's smallest router margin over the layers, float32 `[T]`."""
    model = Routers(open_checkpoint(path))
    logits = model.logits(ids.tolist())
    return logits, np.min(model.margins, axis=0)


def run_osslo(path: Path, ids: NDArray[np.int32], precision: Precision) -> Logits:
    """Logits by the engine, as it serves them."""
    packed = path.with_name(f"random-{precision}.osslo")
    packed.unlink(missing_ok=True)
    model = Model.load(pack(open_checkpoint(path), packed, precision=precision))
    engine = Engine(model, EngineLimits.for_model(model))
    try:
        return engine.score(ids.tolist())
    finally:
        engine.close_blocking()


def run_peer(
    driver: Path, path: Path, ids: NDArray[np.int32], *, kv_bits: int, flash: bool = False
) -> Logits:
    """Logits by llama.cpp."""
    folder = path.parent
    ids.tofile(folder / "ids.bin")
    files = [str(driver), str(path), str(folder / "ids.bin")]
    flags = [str(machine.threads()), str(int(flash)), "1", str(folder)]
    job = f"logits:{len(ids)}:{kv_bits}"
    subprocess.run([*files, *flags, job], check=True, stdout=subprocess.DEVNULL)
    return np.fromfile(folder / "logits.f32", np.float32).reshape(len(ids), -1)


# --- comparing ------------------------------------------------------------------------------------


def log_probabilities(logits: Logits) -> NDArray[np.float64]:
    """Log-softmax of every row, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def difference(logits: Logits, baseline: Logits) -> Difference:
    """`logits` against `baseline`, both `[T, V]`."""
    wanted = log_probabilities(baseline)
    divergence = (np.exp(wanted) * (wanted - log_probabilities(logits))).sum(axis=1)
    return Difference(
        positions=len(logits),
        mean_kl=float(divergence.mean()),
        max_kl=float(divergence.max()),
        greedy=float((logits.argmax(axis=1) == baseline.argmax(axis=1)).mean()),
        largest=float(np.abs(logits - baseline).max() / np.abs(baseline).max()),
    )


def comparisons(runs: dict[str, Logits], margins: NDArray[np.float32]) -> Iterator[Comparison]:
    """Every run against Osslo's exact precision, and llama.cpp's against the default one."""
    exact, default, peer = "Osslo exact", "Osslo default", "llama.cpp"
    pairs = [(name, exact) for name in runs if name != exact] + [(peer, default)]
    for name, baseline in pairs:
        mine, theirs = runs[name], runs[baseline]
        clear = {
            str(bound): difference(mine[margins >= bound], theirs[margins >= bound])
            for bound in NEAR_TIES
        }
        yield Comparison(name, baseline, difference(mine, theirs), clear)


def show(found: list[Comparison]) -> None:
    """The table, as Markdown."""
    say("| run | against | positions | mean KL | max KL | greedy | largest difference |")
    say("|---|---|---|---|---|---|---|")
    for entry in found:
        bounds = {f"margin ≥ {bound}": value for bound, value in entry.clear.items()}
        for which, value in {"all": entry.everywhere, **bounds}.items():
            numbers = f"{value.mean_kl:.1e} | {value.max_kl:.1e} | {value.greedy:.2%}"
            say(
                f"| {entry.name} | {entry.baseline} | {which}: {value.positions} | {numbers} "
                f"| {value.largest:.1e} |"
            )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Osslo's logits beside llama.cpp's.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "agreement.json")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--tokens", type=int, default=1024, help="at most the context of 4096")
    return parser.parse_args()


def main() -> None:
    """Build, write the models, run everything, report."""
    options = arguments()
    peer = peer_build.build(options.build)
    published, plain = write_models(options.out.parent / "agreement")
    ids = np.random.default_rng(SEED).integers(0, CONFIG.vocab_size, options.tokens, np.int32)
    numpy_logits, margins = run_numpy(published, ids)
    runs = {
        "Osslo exact": run_osslo(published, ids, "exact"),
        "Osslo default": run_osslo(published, ids, "default"),
        "NumPy": numpy_logits,
        "llama.cpp": run_peer(peer.driver, published, ids, kv_bits=16),
        "llama.cpp, flash": run_peer(peer.driver, published, ids, kv_bits=16, flash=True),
        "llama.cpp, F32 weights": run_peer(peer.driver, plain, ids, kv_bits=16),
        "llama.cpp, F32 weights and KV": run_peer(peer.driver, plain, ids, kv_bits=32),
    }
    found = list(comparisons(runs, margins))
    show(found)
    report = {
        "machine": machine.describe(),
        "osslo": commit(),
        "peer": peer.version,
        "model": CONFIG.to_dict(),
        "seed": SEED,
        "tokens": len(ids),
        "comparisons": [asdict(entry) for entry in found],
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    say(f"written to {options.out}")


if __name__ == "__main__":
    main()
