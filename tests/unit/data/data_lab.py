"""Small real inputs for the data tests: pictures, a tokenizer, signatures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from optimizer.values import Signature, TensorSpec

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "sat", "ran"]


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def picture(seed: int, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_tokenizer(folder: Path, pad: int = 0) -> Path:
    """A word-level tokenizer that adds [CLS] and [SEP], with fixed padding in its file, as some models ship it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = WORDS if pad == 0 else ["[UNK]", "[PAD]", *WORDS[2:]]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.enable_padding(length=16, pad_id=pad, pad_token="[PAD]")
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def signature(**inputs: str) -> Signature:
    return Signature(tuple(TensorSpec.parse(name, text) for name, text in inputs.items()), ())
