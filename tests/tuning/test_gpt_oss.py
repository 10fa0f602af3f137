"""Models that learn: equal to `transformers`, and their adapters to what PEFT makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import GptOssForCausalLM, Mxfp4Config

from osslo.kernels import formats
from osslo.model.adapters.peft import open_adapter
from osslo.model.checkpoints import open_checkpoint
from osslo.model.presets import preset
from osslo.model.synth import write_random
from osslo.tuning import mxfp4
from osslo.tuning.adapter import write_adapter
from osslo.tuning.examples import Example
from osslo.tuning.gpt_oss import build_model, learned_tensors
from osslo.tuning.learning import Learning, Method
from osslo.tuning.model import Trainable
from osslo.tuning.packing import pack
from osslo.tuning.results import adapter_of

CPU = torch.device("cpu")
IDS = tuple(int(i) for i in np.random.default_rng(1).integers(0, 256, 40))
EVERY = Example(IDS, (False,) + (True,) * (len(IDS) - 1))


def folder_of(tmp_path: Path, name: str, experts: Any = "mxfp4") -> Path:
    return write_random(preset(name), tmp_path / name, seed=3, experts=experts)


def trainable_of(path: Path, learning: Learning) -> Trainable:
    model = build_model(open_checkpoint(path), learning, device=CPU, dtype=torch.float32)
    return Trainable(model)


def by_transformers(folder: Path, *, mxfp4_experts: bool) -> Any:
    extra = {"quantization_config": Mxfp4Config(dequantize=True)} if mxfp4_experts else {}
    model = GptOssForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **extra
    )
    return model.eval()


def logits_by(model: Any) -> NDArray[np.float32]:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0, :-1].numpy()


def logits_of(trainable: Trainable) -> NDArray[np.float32]:
    with torch.no_grad():
        return trainable.logits(pack([EVERY], 64, seed=0)[0]).numpy()


@pytest.mark.parametrize("name", ["tiny", "tiny-odd"])
@pytest.mark.parametrize("experts", ["mxfp4", "plain"])
@pytest.mark.filterwarnings("ignore")
def test_the_forward_is_that_of_transformers(tmp_path: Path, name: str, experts: str) -> None:
    folder = folder_of(tmp_path, name, experts)
    theirs = logits_by(by_transformers(folder, mxfp4_experts=experts == "mxfp4"))
    for learning in (Learning(), Learning(Method.FULL)):
        ours = logits_of(trainable_of(folder, learning))
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_gguf_gives_the_same_model(tmp_path: Path) -> None:
    shape = preset("tiny")
    folder = write_random(shape, tmp_path / "hf", seed=3)
    file = write_random(shape, tmp_path / "m.gguf", seed=3, format="gguf")
    one, other = (logits_of(trainable_of(path, Learning())) for path in (folder, file))
    assert np.array_equal(one, other)


def randomised(trainable: Trainable) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in trainable.parameters():
            if name.endswith("lora_b"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)


@pytest.mark.parametrize("name", ["tiny", "tiny-odd"])
@pytest.mark.parametrize(
    "learning",
    [Learning(rank=4), Learning(rank=3, attention=False), Learning(rank=2, experts=False)],
    ids=["both", "experts", "attention"],
)
@pytest.mark.filterwarnings("ignore")
def test_peft_loads_an_adapter_and_gives_its_logits(
    tmp_path: Path, name: str, learning: Learning
) -> None:
    folder = folder_of(tmp_path, name)
    trainable = trainable_of(folder, learning)
    plain = logits_of(trainable)
    randomised(trainable)
    ours = logits_of(trainable)
    adapter = adapter_of(trainable.state(), learning, base=name)
    write_adapter(tmp_path / "adapter", adapter, card="# a card\n")
    base = by_transformers(folder, mxfp4_experts=True)
    theirs = logits_by(PeftModel.from_pretrained(base, tmp_path / "adapter").eval())
    assert np.abs(ours - plain).max() > 1e-2 * np.abs(plain).max()
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
    read = open_adapter(tmp_path / "adapter", preset(name))
    assert read.base_name == name
    assert len(read.load().factors) == sum(
        1 if part in "qkvo" else preset(name).experts for _, part in adapter.deltas
    )


def test_only_what_was_named_learns(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "tiny")
    lora = {name for name, _ in trainable_of(folder, Learning()).parameters()}
    assert lora
    assert all(name.endswith(("lora_a", "lora_b")) for name in lora)
    full = {name for name, _ in trainable_of(folder, Learning(Method.FULL)).parameters()}
    assert "model.embed_tokens.weight" in full
    assert not any("router" in name for name in full)
    routed = trainable_of(folder, Learning(Method.FULL, router=True)).parameters()
    assert any("router" in name for name, _ in routed)


def test_a_full_model_gives_its_tensors_back(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "tiny-odd", "plain")
    checkpoint = open_checkpoint(folder)
    given = dict(learned_tensors(trainable_of(folder, Learning(Method.FULL)).model))
    assert set(given) == set(checkpoint.names())
    for name, values in given.items():
        stored = checkpoint.vector(name) if values.ndim == 1 else checkpoint.matrix(name)
        wanted = stored if isinstance(stored, np.ndarray) else stored.to_float32()
        assert np.array_equal(values, wanted), name


def test_rounding_is_that_of_the_format_and_lets_gradients_pass() -> None:
    values = np.random.default_rng(0).normal(size=(40, 96)).astype(np.float32)
    values[0] = 0
    values[1, :32] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 7] * 4
    values[2] *= 1e-30
    values[3] *= 1e30
    blocks, scales = formats.mxfp4_encode(values)
    wanted = formats.mxfp4_decode(blocks, scales)
    assert np.array_equal(mxfp4.rounded(torch.tensor(values)).numpy(), wanted)
    decoded = mxfp4.decode(torch.tensor(blocks), torch.tensor(scales), torch.float32)
    assert np.array_equal(decoded.numpy(), wanted)
    learned = torch.tensor(values, requires_grad=True)
    (mxfp4.straight_through(learned) * 3).sum().backward()
    assert learned.grad is not None
    assert (learned.grad == 3).all()
