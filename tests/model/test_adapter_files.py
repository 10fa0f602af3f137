"""Reading adapters in PEFT's layout: what PEFT itself wrote gives what PEFT computes, and what
cannot be served is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osslo.errors import AdapterError
from osslo.model.adapters.factors import Place, Target
from osslo.model.adapters.peft import CONFIG_FILE, WEIGHTS_FILE, open_adapter
from osslo.model.checkpoints import open_checkpoint
from osslo.model.model import Model
from osslo.model.pack import pack
from osslo.model.presets import PRESETS
from osslo.model.reference import ReferenceModel
from osslo.model.synth import random_checkpoint
from tests.model.random_adapters import ATTENTION, Tensors, write_adapter
from tests.model.random_models import SMALLEST
from tests.model.test_adapters import relative_error, run

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "target_parameters": EXPERTS},
        {"target_parameters": EXPERTS[1:], "target_modules": ["v_proj"], "use_rslora": True},
        {"target_parameters": EXPERTS[:1], "target_modules": [], "lora_alpha": 3},
        {
            "target_modules": ["q_proj", "o_proj"],
            "rank_pattern": {"o_proj": 2},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 5},
        },
    ],
)
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_writes_what_is_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    random_checkpoint(tmp_path / "base", PRESETS["tiny"], 4, experts="plain")
    base = transformers.GptOssForCausalLM.from_pretrained(
        tmp_path / "base", dtype=torch.float32, attn_implementation="eager"
    )
    lora = peft.LoraConfig(**{"r": 3, "lora_alpha": 12, "init_lora_weights": False, **changes})
    torch.manual_seed(1)
    tuned = peft.get_peft_model(base, lora).eval()
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.2)  # of about a matrix's own size
    tuned.save_pretrained(tmp_path / "adapter")

    checkpoint = open_checkpoint(tmp_path / "base")
    model = Model.load(pack(checkpoint, tmp_path / "base.osslo", precision="exact"))
    adapter = open_adapter(tmp_path / "adapter", model.config).load()
    ids = np.random.default_rng(0).integers(0, model.vocab_size, 60).tolist()
    found = run(model, [ids], [model.load_adapter(adapter)])[0]
    with torch.no_grad():
        unmerged = tuned(torch.tensor([ids])).logits[0].numpy()
        merged = tuned.merge_and_unload()(torch.tensor([ids])).logits[0].numpy()
    plain = run(model, [ids], [None])[0]
    assert relative_error(plain, merged) > 0.05
    # Float32 in another order of summation, through all layers (test_reference has the same).
    assert relative_error(found, unmerged) < 2e-4
    assert relative_error(found, merged) < 2e-4
    assert relative_error(ReferenceModel(checkpoint).logits(ids, adapter), merged) < 2e-4


def test_experts_may_be_modules_of_their_own(tmp_path: Path) -> None:
    config = SMALLEST
    start = "base_model.model.model.layers.0.mlp.experts."

    def split(tensors: Tensors) -> None:
        for module, part in (("base_layer.", "gate_up_proj"), ("", "down_proj")):
            a = tensors.pop(f"{start}{module}lora_A.weight").reshape(config.experts, 4, -1)
            b = tensors.pop(f"{start}{module}lora_B.weight").reshape(-1, 4, config.experts)
            for e in range(config.experts):
                name = f"{start}{e}.{part}" if e else f"{start}{part}s.{e}"
                tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(a[e])
                tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(b[:, :, e])

    fused = open_adapter(write_adapter(tmp_path / "fused", config), config)
    apart = open_adapter(write_adapter(tmp_path / "apart", config, change=split), config)
    assert apart.resident_bytes == fused.resident_bytes
    expected = fused.load().factors
    found = apart.load().factors
    assert found.keys() == expected.keys()
    for place, factors in found.items():
        np.testing.assert_array_equal(factors.a, expected[place].a)
        np.testing.assert_array_equal(factors.b, expected[place].b)


def test_float16_is_read_as_float32(tmp_path: Path) -> None:
    half = open_adapter(write_adapter(tmp_path / "h", SMALLEST, dtype="F16"), SMALLEST).load()
    whole = open_adapter(write_adapter(tmp_path / "w", SMALLEST), SMALLEST).load()
    place = Place(0, Target.QUERY)
    found, expected = half.factors[place].a, whole.factors[place].a
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.astype(np.float16).astype(np.float32))


def test_an_identity_is_of_the_contents(tmp_path: Path) -> None:
    identities = [
        open_adapter(write_adapter(tmp_path / name, SMALLEST, seed=seed), SMALLEST).identity()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA"),
        ({"use_dora": True}, "use_dora is True, which is not served"),
        ({"bias": "all"}, "bias is all, which is not served"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is"),
        ({"r": 0}, "r is 0, but must be a whole number"),
        ({"r": 7}, "has rank 4, but adapter_config.json says 7"),
        ({"r": True}, "r is True"),
        ({"lora_alpha": "x"}, "lora_alpha is x, but must be a number"),
        ({"lora_alpha": 1e300}, "lora_alpha is 1e"),
        ({"use_rslora": 3}, "use_rslora is 3"),
        ({"rank_pattern": [1]}, "rank_pattern is not an object"),
        ({"rank_pattern": {".*": 4}}, "only plain module names"),
    ],
)
def test_configurations_that_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = write_adapter(tmp_path / "a", SMALLEST, settings=changes)
    with pytest.raises(AdapterError, match=r"adapter_config\.json|rank 4") as caught:
        open_adapter(folder, SMALLEST)
    assert message in caught.value.message


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
HEAD = "base_model.model.lm_head.lora_A.weight"


def _put(name: str, shape: tuple[int, ...]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__setitem__(name, np.ones(shape, np.float32))


def _drop(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_put(HEAD, (4, 32)), "lm_head.lora_A.weight is not served"),
        (_put(Q.replace("q_proj", "x_proj") + "A.weight", (4, 32)), "has only lora_A"),
        (_put(Q + "A.weight", (4, 33)), "is [4, 33], but must be [4, 32] for this model"),
        (_put(Q + "B.weight", (65, 4)), "but must be [64, 4]"),
        (_put(Q + "A.weight", (4, 2, 16)), "has 3 dimensions"),
        (_put(Q + "A.weight", (0, 32)), "but must be"),
        (_drop(Q + "B.weight"), "has only lora_A"),
        (_put(Q.replace("0", "9") + "A.weight", (4, 32)), "the model has 2 layers"),
        (_put("base_model.model.model.layers.0.mlp.experts.lora_A.weight", (5, 32)), "no multiple"),
        (lambda tensors: tensors.clear(), "there are no factors"),
    ],
)
def test_tensors_that_are_refused(
    tmp_path: Path, change: Callable[[Tensors], None], message: str
) -> None:
    folder = write_adapter(tmp_path / "a", SMALLEST, change=change)
    with pytest.raises(AdapterError, match=WEIGHTS_FILE) as caught:
        open_adapter(folder, SMALLEST)
    assert message in caught.value.message


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_numbers_that_are_not_finite(tmp_path: Path, value: float, dtype: str) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors[Q + "A.weight"][2, 3] = value

    files = open_adapter(
        write_adapter(tmp_path / "a", SMALLEST, dtype=dtype, change=spoil), SMALLEST
    )
    with pytest.raises(AdapterError, match=r"q_proj\.lora_A\.weight holds NaN or infinity"):
        files.load()


def test_another_base_is_refused(tmp_path: Path) -> None:
    named = {"osslo.base_fingerprint": "a" * 64}
    folder = write_adapter(tmp_path / "a", SMALLEST, metadata=named)
    open_adapter(folder, SMALLEST, fingerprint="a" * 64)
    with pytest.raises(AdapterError, match="made for the base aaaaaaaaaaaa"):
        open_adapter(folder, SMALLEST, fingerprint="b" * 64)


@pytest.mark.parametrize("missing", [CONFIG_FILE, WEIGHTS_FILE])
def test_missing_files(tmp_path: Path, missing: str) -> None:
    folder = write_adapter(tmp_path / "a", SMALLEST)
    (folder / missing).unlink()
    with pytest.raises(AdapterError, match=missing):
        open_adapter(folder, SMALLEST)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_mutated_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever a broken disk or a hostile uploader makes of the files, there is one clear error."""
    folder = tmp_path_factory.mktemp("fuzz") / "a"
    write_adapter(folder, SMALLEST, rank=1, targets=ATTENTION)
    path = folder / data.draw(st.sampled_from([CONFIG_FILE, WEIGHTS_FILE]))
    raw = bytearray(path.read_bytes())
    area = min(len(raw), 3000)  # lengths, names, shapes and offsets
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, area - 1))
        raw[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    path.write_bytes(raw)
    try:
        open_adapter(folder, SMALLEST).load()
    except AdapterError as error:
        message = error.message
    else:
        return
    assert "\n" not in message


def test_a_header_of_nonsense_is_one_line(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", SMALLEST)
    header = {"x": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    (folder / WEIGHTS_FILE).write_bytes(len(text).to_bytes(8, "little") + text + b"0000")
    with pytest.raises(AdapterError, match="does not fill its 4 bytes"):
        open_adapter(folder, SMALLEST)
