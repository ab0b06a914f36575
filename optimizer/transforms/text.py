"""Text -> token ids, with a `tokenizer.json` of the tokenizers library."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from optimizer.errors import OptimizerError, missing_extra
from optimizer.schema import File, Strict
from optimizer.transforms.columns import Example, value

if TYPE_CHECKING:
    import numpy as np

PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")


def _tokenizer_json(path: Path) -> Path:
    found = path / "tokenizer.json" if path.is_dir() else path
    if not found.is_file():
        raise OptimizerError(f"no tokenizer.json in {path}", "give the file, or the folder that holds it")
    return found


class TokenizeOptions(Strict):
    tokenizer: Annotated[File, AfterValidator(_tokenizer_json)] = Field(description="tokenizer.json, or its folder")
    columns: list[str] = Field(["text"], min_length=1, description="one column, or two that make a sentence pair")
    views: bool = Field(False, description="tokenize the columns apart: a leading axis with one row per column")
    max_length: int | None = Field(None, ge=1, description="cut longer texts; default: what the tokenizer's file says")
    length: int | None = Field(None, ge=1, description="cut or pad every text to exactly this many tokens")
    outputs: list[Literal["input_ids", "attention_mask", "token_type_ids"]] = Field(
        ["input_ids", "attention_mask", "token_type_ids"], min_length=1, description="int64 columns to add"
    )

    @model_validator(mode="after")
    def _pair(self) -> TokenizeOptions:
        if not self.views and len(self.columns) > 2:
            raise ValueError("a sentence pair has two columns; for more, use views: true")
        return self


def tokenize(example: Example, options: TokenizeOptions) -> Example:
    """Text columns -> int64 `input_ids`, `attention_mask` and `token_type_ids`, special tokens added."""
    import numpy as np

    tokenizer, pad = _tokenizer(str(options.tokenizer), options.max_length, options.length)
    texts = [_text(example, name) for name in options.columns]
    encodings = [tokenizer.encode(t) for t in texts] if options.views else [tokenizer.encode(*texts)]
    longest = options.length or max(len(e.ids) for e in encodings)
    parts = {
        "input_ids": ([e.ids for e in encodings], pad),
        "attention_mask": ([e.attention_mask for e in encodings], 0),
        "token_type_ids": ([e.type_ids for e in encodings], 0),
    }
    made: dict[str, np.ndarray] = {}
    for name in options.outputs:
        rows, fill = parts[name]
        ids = np.array([row + [fill] * (longest - len(row)) for row in rows], np.int64)
        made[name] = ids if options.views else ids[0]
    return {**example, **made}


def pads(options: TokenizeOptions) -> dict[str, float]:
    """What pads each output where a batch holds texts of several lengths."""
    _, pad = _tokenizer(str(options.tokenizer), options.max_length, options.length)
    return {name: float(pad) if name == "input_ids" else 0.0 for name in options.outputs}


def _text(example: Example, column: str) -> str:
    found = value(example, column)
    if not isinstance(found, str):
        raise OptimizerError(
            f"column '{column}' holds {type(found).__name__}, not text", "name the text columns in 'columns'"
        )
    return found


@functools.lru_cache(maxsize=8)
def _tokenizer(path: str, max_length: int | None, length: int | None) -> tuple[Any, int]:
    """The tokenizer without its own padding, and the id that pads."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise missing_extra("tokenizers", "hf", "the transform 'tokenize'") from None
    _look(Path(path))
    tokenizer = Tokenizer.from_file(path)
    pad = _pad_id(tokenizer)
    tokenizer.no_padding()
    limits = [n for n in (max_length, length) if n is not None]
    if limits:
        tokenizer.enable_truncation(max_length=min(limits))
    return tokenizer, pad


def _pad_id(tokenizer: Any) -> int:
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    known = (tokenizer.token_to_id(token) for token in PAD_TOKENS)
    return next((int(i) for i in known if i is not None), 0)


def _look(path: Path) -> None:
    # The library raises a bare Exception for a file that is no tokenizer; this says it in words.
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptimizerError(f"{path} is no tokenizer file: {error}", "give a tokenizer.json") from None
    if not isinstance(document, dict) or "model" not in document:
        raise OptimizerError(
            f"{path} is no tokenizer file: it has no 'model'", "give a tokenizer.json of the tokenizers library"
        )
