"""Reading checkpoints: Hugging Face safetensors, OpenAI's original layout, and GGUF."""

from osslo.model.checkpoints.opening import open_checkpoint
from osslo.model.checkpoints.tensors import (
    Bf16Matrix,
    Checkpoint,
    F16Matrix,
    F32Matrix,
    GgufVocabulary,
    Matrix,
    Mxfp4Matrix,
    Q8Matrix,
    StoredTensor,
    TokenizerFile,
    TokenizerSource,
    tensor_names,
)

__all__ = [
    "Bf16Matrix",
    "Checkpoint",
    "F16Matrix",
    "F32Matrix",
    "GgufVocabulary",
    "Matrix",
    "Mxfp4Matrix",
    "Q8Matrix",
    "StoredTensor",
    "TokenizerFile",
    "TokenizerSource",
    "open_checkpoint",
    "tensor_names",
]
