"""A trained delta says the same in the engine as in the model that was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import osslo
from osslo.harmony.messages import Channel, Conversation, Message, Role
from osslo.harmony.render import Renderer
from osslo.model.checkpoints.gguf import GgufFile
from osslo.model.standin import build_standin
from osslo.model.standin.convert import LlamaSizes
from osslo.model.standin.delta import Delta, read_delta, write_delta
from osslo.model.standin.markers import Marked
from osslo.tuning.examples import Example, ExampleRenderer
from osslo.tuning.fused import fuse
from osslo.tuning.model import Trainable
from osslo.tuning.packing import Pack, pack
from recipes.stand_in.model import build_trainable, delta_of, load_delta, open_base
from tests.model.llama import write_tiny_llama

# peft asks transformers for a property by its former name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Paths = tuple[Path, Marked, LlamaSizes]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    path = tmp_path_factory.mktemp("base") / "tiny.gguf"
    write_tiny_llama(path)
    return path, open_base(path, fitted=False), LlamaSizes.from_gguf(GgufFile(path).metadata)


def conversation(question: str, thought: str, call: str) -> Conversation:
    return Conversation(
        messages=(
            Message(Role.USER, question),
            Message(Role.ASSISTANT, thought, channel=Channel.ANALYSIS),
            Message(
                Role.ASSISTANT,
                call,
                channel=Channel.COMMENTARY,
                recipient="functions.add",
                content_type="json",
            ),
        )
    )


TAUGHT = (
    conversation("2 and 3?", "Use add.", '{"a":2,"b":3}'),
    conversation("Say 7 and 1", "It is add.", '{"a":7,"b":1}'),
)


def stored(trainable: Trainable, sizes: LlamaSizes, path: Path) -> Delta:
    """The delta as it ships, and the trainable rounded as it is there."""
    write_delta(path, delta_of(trainable.state(), sizes))
    delta = read_delta(path)
    assert delta is not None
    load_delta(trainable, delta, sizes)
    return delta


def engine_of(base: Paths, delta: Delta, folder: Path) -> osslo.LocalModel:
    build_standin(base[0], folder, delta=delta, exact=True)
    return osslo.load(folder, context=512, precision="exact", threads=1)


def torch_logits(trainable: Trainable, ids: list[int]) -> np.ndarray:
    """Logits after every token but the last."""
    example = Example(tuple(ids), (False,) + (True,) * (len(ids) - 1))
    (only,) = pack([example], len(ids), seed=0)
    with torch.no_grad():
        return trainable.logits(only).numpy()


def greedy(trainable: Trainable, prompt: list[int], count: int, silent: list[int]) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        last = torch_logits(trainable, [*ids, 0])[-1]
        last[silent] = -np.inf
        ids.append(int(last.argmax()))
    return ids[len(prompt) :]


def test_the_engine_gives_the_logits_and_words_of_the_trained_model(
    base: Paths, tmp_path: Path
) -> None:
    path, marked, sizes = base
    trainable = build_trainable(path, marked)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, value in trainable.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    delta = stored(trainable, sizes, tmp_path / "delta.npz")
    specials = marked.tokenizer.specials
    silent = [specials["<|im_start|>"], specials["<|im_end|>"]]  # the head's rows that are zeroed
    prompt = Renderer(marked.tokenizer).render(TAUGHT[0])
    ours = torch_logits(trainable, prompt)
    with engine_of(base, delta, tmp_path / "model") as model:
        theirs = model.logits(prompt)[:-1]
        said = model.generate(prompt, max_tokens=24, temperature=0.0, ignore_eos=True)
        words = said.text and said.ids
    ours[:, silent] = theirs[:, silent] = 0
    # float32 both, summed in another order, over factors of size 100 (down) and 0.1 (up).
    assert np.abs(ours - theirs).max() < 2e-4 * np.abs(ours).max()
    assert words == greedy(trainable, prompt, 24, silent)


def test_what_was_learned_by_heart_is_said_by_the_engine(base: Paths, tmp_path: Path) -> None:
    """Training, rounding, export and serving, end to end: whole turns without a grammar."""
    path, marked, sizes = base
    trainable = build_trainable(path, marked)
    examples = [ExampleRenderer(marked.tokenizer).last_turn(one) for one in TAUGHT]
    packs = pack(examples, 2000, seed=0)
    parameters = [value for _, value in trainable.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(60):
        loss = torch.stack([trainable.loss(one) for one in packs]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    delta = stored(trainable, sizes, tmp_path / "delta.npz")
    with engine_of(base, delta, tmp_path / "model") as model:
        for taught, example in zip(TAUGHT, examples, strict=True):
            prompt = Renderer(marked.tokenizer).render(Conversation(taught.messages[:1]))
            made = model.generate(prompt, max_tokens=120, temperature=0.0)
            assert made.text
            assert (*prompt, *made.ids) == example.ids


def learned(trainable: Trainable, packs: list[Pack]) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of a trainable with factors that change something."""
    generator = torch.Generator().manual_seed(5)
    parameters = [value for _, value in trainable.parameters()]
    with torch.no_grad():
        for value in parameters:
            value.add_(0.02 * torch.randn(value.shape, generator=generator))
    loss = torch.stack([trainable.loss(one) for one in packs]).sum()
    gradients = torch.autograd.grad(loss, parameters)
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def test_fused_layers_and_bfloat16_learn_what_the_plain_ones_learn(base: Paths) -> None:
    path, marked, _ = base
    renderer = ExampleRenderer(marked.tokenizer)
    packs = pack([renderer.last_turn(one) for one in TAUGHT], 2000, seed=0)
    loss, gradient = learned(build_trainable(path, marked), packs)
    fused = build_trainable(path, marked)
    fuse(fused.model, torch.float32)
    same_loss, same_gradient = learned(fused, packs)
    assert torch.allclose(loss, same_loss, rtol=1e-5)
    assert torch.allclose(
        gradient, same_gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max())
    )
    near_loss, near = learned(build_trainable(path, marked, torch.bfloat16), packs)
    # Products of 8 bits, in a random model that amplifies what it is given: weights of 0.3.
    assert torch.allclose(loss, near_loss, rtol=1e-2)
    assert torch.nn.functional.cosine_similarity(gradient, near, dim=0) > 0.97
