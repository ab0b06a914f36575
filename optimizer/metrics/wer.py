"""Word error rate of a speech or text recognizer, in percent of the words that were said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from optimizer import scores
from optimizer.errors import OptimizerError, missing_extra
from optimizer.protocols import Batch, Labels
from optimizer.schema import File, Strict
from optimizer.values import Better, Unit

UNIT: Unit = "%"
BETTER: Better = "lower"
AGAINST: Literal["labels"] = "labels"
LABELS: Labels = "text"
TOOLS = ("jiwer",)


class Options(Strict):
    vocabulary: File = Field(description="a UTF-8 text file with one token per line, in the order of their ids")
    output: str | None = Field(
        None, description="logits (samples, steps, tokens), or token ids (samples, steps); default: the first output"
    )
    ctc: bool = Field(True, description="merge repeated tokens and drop the blank (greedy CTC); false: as they are")
    blank: int = Field(0, ge=0, description="id of the CTC blank")
    space: str = Field("|", description="what stands for a space in tokens; SentencePiece: ▁")
    drop: list[str] = Field(["<pad>", "<s>", "</s>"], description="tokens that are not written")
    lengths: str | None = Field(None, description="the output that counts the valid steps of each sample; default: all")
    lowercase: bool = Field(False, description="compare in lower case")
    punctuation: bool = Field(True, description="false: compare without punctuation")


def examples(outputs: Mapping[str, np.ndarray], batch: Batch, options: Options) -> np.ndarray:
    """Rows (substitutions + deletions + insertions, words in the label)."""
    said = scores.labels(batch.labels, batch.views)
    wordless = [label for label in said if not isinstance(label, str)]
    if wordless:
        raise OptimizerError(f"the label {wordless[0]!r} is no text", "set label_as: text in the data")
    heard = texts(outputs, len(said), options)
    return np.array([_errors(*pair, options) for pair in zip(said, heard, strict=True)], np.float64)


def summarize(rows: np.ndarray) -> float:
    """Errors per word over all examples; above 100 where more is inserted than was said."""
    return float(weighted(rows, scores.once(rows))[0])


def weighted(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    errors, words = (counts @ rows).T
    found: np.ndarray = 100 * errors / np.maximum(words, 1)
    return found


def constant(rows: np.ndarray, classes: np.ndarray | None) -> float:  # noqa: ARG001  # the protocol's signature
    """Every word is missed by a model that writes nothing."""
    return 100.0


def texts(outputs: Mapping[str, np.ndarray], samples: int, options: Options) -> list[str]:
    """What the model wrote, one text per sample."""
    found = scores.output(outputs, options.output, samples)
    if found.ndim == 3 and found.dtype.kind == "f":
        found = found.argmax(axis=2)
    if found.ndim != 2 or found.dtype.kind not in "iu":
        raise OptimizerError(
            f"the output has type {found.dtype} and shape {list(found.shape)}, neither logits nor token ids",
            scores.advice("another", outputs) or "let the model return logits or token ids",
        )
    vocabulary = _vocabulary(options.vocabulary)
    if found.max(initial=0) >= len(vocabulary) or found.min(initial=0) < 0:
        raise OptimizerError(
            f"the model writes the token {found.max(initial=0)}, {options.vocabulary} has {len(vocabulary)} tokens",
            "give the vocabulary that the model was trained with, one token per line",
        )
    steps = [found.shape[1]] * samples
    if options.lengths is not None:
        steps = scores.output(outputs, options.lengths, samples).reshape(samples).astype(int).tolist()
    return [_written(ids[:count], vocabulary, options) for ids, count in zip(found, steps, strict=True)]


def _written(ids: np.ndarray, vocabulary: list[str], options: Options) -> str:
    if options.ctc and len(ids):
        ids = ids[np.concatenate([[True], ids[1:] != ids[:-1]])]
        ids = ids[ids != options.blank]
    tokens = (vocabulary[i] for i in ids.tolist())
    return "".join(token for token in tokens if token not in options.drop).replace(options.space, " ")


def _vocabulary(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")[: None if not path.read_bytes().endswith(b"\n") else -1]
    except (UnicodeDecodeError, IsADirectoryError):
        raise OptimizerError(f"{path} is no UTF-8 text file", "write one token per line") from None


def _errors(said: str, heard: str, options: Options) -> tuple[int, int]:
    try:
        import jiwer
    except ImportError:
        raise missing_extra("jiwer", "metrics", "the metric 'wer'") from None
    steps = [jiwer.RemoveMultipleSpaces(), jiwer.Strip()]
    steps = [*([jiwer.ToLowerCase()] if options.lowercase else []), *steps]
    steps = [*([] if options.punctuation else [jiwer.RemovePunctuation()]), *steps]
    said, heard = jiwer.Compose(steps)([said, heard])
    if not said:  # nothing was said: jiwer refuses to align, every word heard is an insertion
        return len(heard.split()), 0
    found = jiwer.process_words(said, heard)
    return found.substitutions + found.deletions + found.insertions, len(said.split())
