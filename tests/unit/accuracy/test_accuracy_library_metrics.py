"""Detection, speech and language metrics against hand-computed values and the libraries that define them."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from optimizer import machine, recipe, registry, schema, testing
from optimizer import plan as planning
from optimizer.errors import OptimizerError
from optimizer.measure import accuracy
from optimizer.protocols import Batch

MAP, WER, PPL = (registry.load("metrics", name) for name in ("map", "wer", "perplexity"))
FORMATS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "xywh": lambda b: b,
    "xyxy": lambda b: np.concatenate([b[..., :2], b[..., :2] + b[..., 2:]], axis=-1),
    "cxcywh": lambda b: np.concatenate([b[..., :2] + b[..., 2:] / 2, b[..., 2:]], axis=-1),
}


def objects(found: list[Any]) -> np.ndarray:
    made = np.empty(len(found), object)
    for place, item in enumerate(found):
        made[place] = item
    return made


def batch(labels: Any, **feeds: np.ndarray) -> Batch:
    found = labels if isinstance(labels, np.ndarray) else objects(labels)
    return Batch(feeds, found, np.arange(len(found)))


def scene(seed: int, images: int = 30, detections: int = 25) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """A detector that finds most boxes roughly, invents some, and pads with score 0; boxes as xywh."""
    g = np.random.default_rng(seed)
    boxes, score = np.zeros((images, detections, 4)), np.zeros((images, detections), np.float32)
    classes, truth = np.zeros((images, detections), np.int64), []
    for image in range(images):
        count = int(g.integers(0, 9))
        true = np.concatenate([g.uniform(0, 80, (count, 2)), g.uniform(8, 60, (count, 2))], axis=1)
        names = g.integers(1, 5, count)
        crowd = (g.random(count) < 0.1).astype(int)
        truth.append({"boxes": true.tolist(), "labels": names.tolist(), "crowd": crowd.tolist()})
        found = np.concatenate(
            [true + g.normal(0, 3, true.shape), true[: count // 2] + g.normal(0, 9, (count // 2, 4))]
        )
        found = np.concatenate([found, g.uniform(5, 60, (int(g.integers(0, 5)), 4))])
        found[:, 2:] = np.maximum(found[:, 2:], 1)
        own = np.resize(names, len(found)) if count else g.integers(1, 5, len(found))
        own = np.where(g.random(len(found)) < 0.15, g.integers(1, 6, len(found)), own)
        kept = len(found)
        boxes[image, :kept], classes[image, :kept], score[image, :kept] = found, own, g.random(kept)
    return {"boxes": boxes, "scores": score, "labels": classes}, truth


def by_library(outputs: dict[str, np.ndarray], truth: list[dict[str, Any]], iou: float | None = None) -> float:
    """The same through COCOeval from end to end: accumulate and summarize included."""
    true, seen = [], []
    for image, one in enumerate(truth):
        for box, name, crowd in zip(one["boxes"], one["labels"], one["crowd"], strict=True):
            true.append({"id": len(true) + 1, "image_id": image, "category_id": name, "bbox": box,
                         "area": box[2] * box[3], "iscrowd": crowd})  # fmt: skip
        for box, s, name in zip(*(outputs[k][image] for k in ("boxes", "scores", "labels")), strict=True):
            if s > 0:
                seen.append({"image_id": image, "category_id": int(name), "bbox": box.tolist(), "score": float(s)})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, "images": [{"id": i} for i in range(len(truth))], "annotations": true,
                        "categories": [{"id": i} for i in range(1, 6)]}  # fmt: skip
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(seen), "bbox")
        if iou is not None:
            judge.params.iouThrs = np.array([iou])
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, -1]
    return float(100 * precision[precision > -1].mean())


def map_rows(outputs: dict[str, np.ndarray], truth: Any, **options: Any) -> np.ndarray:
    made = {**outputs, "boxes": FORMATS[options.get("format", "xyxy")](outputs["boxes"])}
    found: np.ndarray = MAP.examples(made, batch(truth), schema.parse(MAP.Options, options, "map"))
    return found


@pytest.mark.parametrize("iou", [None, 0.5, 0.75])
def test_map_is_what_pycocotools_says(iou: float | None) -> None:
    for seed in range(3):
        outputs, truth = scene(seed)
        expected = by_library(outputs, truth, iou)
        assert 5 < expected < 95
        assert MAP.summarize(map_rows(outputs, truth, iou=iou)) == pytest.approx(expected, abs=1e-6)


def test_map_of_repeated_images_is_that_of_the_weights() -> None:
    outputs, truth = scene(5, images=20)
    rows = map_rows(outputs, truth)
    counts = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), size=5).astype(float)
    for count, value in zip(counts, MAP.weighted(rows, counts), strict=True):
        picked = np.repeat(np.arange(20), count.astype(int))
        again = {name: array[picked] for name, array in outputs.items()}
        assert value == pytest.approx(by_library(again, [truth[i] for i in picked]), abs=1e-6)


def test_map_by_hand() -> None:
    # Two boxes of one class. By falling score: a hit, a miss, a hit: precision 1 up to recall 0.5, then 2/3.
    truth = [{"boxes": [[0, 0, 10, 10], [50, 50, 10, 10]], "labels": [3, 3]}]
    outputs = {
        "boxes": np.array([[[0, 0, 10, 10], [200, 200, 10, 10], [50, 50, 10, 10]]], float),
        "scores": np.array([[0.9, 0.8, 0.7]]),
        "labels": np.array([[3, 3, 3]]),
    }
    expected = 100 * (51 * 1 + 50 * 2 / 3) / 101
    for form in FORMATS:
        assert MAP.summarize(map_rows(outputs, truth, format=form)) == pytest.approx(expected)
    shifted = {**outputs, "labels": outputs["labels"] - 1}
    assert MAP.summarize(map_rows(shifted, truth)) == 0
    assert MAP.summarize(map_rows(shifted, truth, offset=1)) == pytest.approx(expected)
    assert MAP.summarize(map_rows(outputs, truth, max_detections=1)) == pytest.approx(100 * 51 / 101)
    assert MAP.summarize(map_rows(outputs, truth, min_score=0.75)) == pytest.approx(100 * 51 / 101)


def test_map_reads_padded_arrays_and_pads_batches_of_different_width() -> None:
    outputs, truth = scene(1, images=8)
    wide = np.full((8, 10, 6), -1.0)
    for place, one in enumerate(truth):
        count = len(one["labels"])
        wide[place, :count] = np.column_stack([np.array(one["boxes"]).reshape(-1, 4), one["labels"], one["crowd"]])
    np.testing.assert_array_equal(map_rows(outputs, wide), map_rows(outputs, truth))
    parts = [map_rows({k: v[i : i + 4] for k, v in outputs.items()}, truth[i : i + 4]) for i in (0, 4)]
    assert parts[0].shape[1] != parts[1].shape[1]
    joined = accuracy._joined("map", parts, MAP.FILL, several=True)
    assert MAP.summarize(joined) == pytest.approx(MAP.summarize(map_rows(outputs, truth)))


def test_map_keeps_the_contract_and_has_paired_drops() -> None:
    outputs, truth = scene(2)
    made = {**outputs, "boxes": FORMATS["xyxy"](outputs["boxes"])}
    testing.check_metric(MAP, made, batch(truth))
    worse = {**outputs, "boxes": outputs["boxes"] + np.random.default_rng(0).normal(0, 4, outputs["boxes"].shape)}
    worse["boxes"][..., 2:] = np.maximum(worse["boxes"][..., 2:], 1)
    rows = {"map": map_rows(worse, truth)}
    wanted = {"map": (MAP, MAP.Options())}
    before = ("fp32@x", {"map": map_rows(outputs, truth)})
    _, drop = accuracy.measurements("int8@x", rows, wanted, before, "m", 0, {}, {("map", "drop"): [1.0]})
    assert (
        drop.unit == "pp" and drop.low is not None and drop.high is not None and 0 < drop.low < drop.value < drop.high
    )
    assert drop.protocol["interval"] == "paired BCa bootstrap, 95 %" and drop.protocol["limit_p"]["1"] > 0.5


@pytest.mark.parametrize(
    ("change", "label", "message"),
    [
        ({"scores": None}, None, "unknown output 'scores'"),
        ({"scores": np.ones((2, 3))}, None, r"boxes \[2, 25, 4\], scores \[2, 3\]"),
        ({}, {"boxes": [[0, 0, 1, 1]]}, "no object with boxes and labels"),
        ({}, {"boxes": [[0, 0, 1, 1]], "labels": [1, 2]}, "1 boxes, 2 labels"),
        ({}, 7, "no object with boxes and labels"),
    ],
)
def test_what_map_cannot_read(change: dict[str, Any], label: Any, message: str) -> None:
    outputs, truth = scene(0, images=2)
    made = {name: array for name, array in {**outputs, **change}.items() if array is not None}
    with pytest.raises(OptimizerError, match=message) as caught:
        MAP.examples(made, batch([label or truth[0], truth[1]]), MAP.Options())
    assert caught.value.hint


WORDS = ["<blank>", "|", "a", "b", "c", "d", "</s>"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return path


def speech(texts: list[str], steps: int = 24) -> np.ndarray:
    """Logits that spell texts in CTC: every letter twice, a blank after each."""
    logits = np.full((len(texts), steps, len(WORDS)), -5.0, np.float32)
    for row, text in zip(logits, texts, strict=True):
        ids = [i for letter in text for i in (WORDS.index("|" if letter == " " else letter),) * 2 + (0,)]
        ids += [0] * (steps - len(ids))
        row[np.arange(steps), ids] = 5
    return logits


def wer_rows(outputs: dict[str, np.ndarray], labels: list[str], vocabulary: Path, **options: Any) -> np.ndarray:
    parsed = schema.parse(WER.Options, {"vocabulary": str(vocabulary), **options}, "wer")
    found: np.ndarray = WER.examples(outputs, batch(np.array(labels)), parsed)
    return found


def test_wer_by_hand_and_by_jiwer(vocabulary: Path) -> None:
    heard, said = ["ab cd", "aab", "dd a", ""], ["ab cd", "abb c", "d a b", "a b"]
    rows = wer_rows({"logits": speech(heard)}, said, vocabulary)
    assert rows.tolist() == [[0, 2], [2, 2], [2, 3], [2, 2]]
    assert WER.summarize(rows) == pytest.approx(100 * 6 / 9) == pytest.approx(100 * jiwer.wer(said, heard))
    testing.check_metric(
        WER, {"logits": speech(heard * 2)}, batch(np.array(said * 2)), WER.Options(vocabulary=vocabulary)
    )


def test_wer_of_token_ids_case_and_lengths(vocabulary: Path) -> None:
    ids = np.array([[2, 2, 1, 3, 6, 6], [4, 4, 4, 5, 5, 5]])
    assert wer_rows({"ids": ids}, ["aa b", "cccddd"], vocabulary, ctc=False).tolist() == [[0, 2], [0, 1]]
    assert wer_rows({"ids": ids}, ["a b", "cd"], vocabulary).tolist() == [[0, 2], [0, 1]]
    outputs = {"ids": ids, "length": np.array([1, 3])}
    assert wer_rows(outputs, ["a", "c"], vocabulary, lengths="length").tolist() == [[0, 1], [0, 1]]
    assert wer_rows({"ids": ids}, ["A B", "C, D!"], vocabulary).tolist() == [[2, 2], [2, 2]]
    strict = {"lowercase": True, "punctuation": False}
    assert wer_rows({"ids": ids}, ["A B.", "CD!"], vocabulary, **strict).tolist() == [[0, 2], [0, 1]]
    assert wer_rows({"ids": ids}, ["", "cd"], vocabulary).tolist() == [[2, 0], [0, 1]]


def test_wer_pairs_its_drops(vocabulary: Path) -> None:
    said = ["ab cd", "a b c", "d d", "abcd"] * 10
    worse = [text.replace("d", "c") if i % 3 == 0 else text for i, text in enumerate(said)]
    wanted = {"wer": (WER, WER.Options(vocabulary=vocabulary))}
    rows = {name: {"wer": wer_rows({"l": speech(t)}, said, vocabulary)} for name, t in (("x", worse), ("y", said))}
    absolute, drop = accuracy.measurements("x", rows["x"], wanted, ("y", rows["y"]), "m", 0, {})
    assert absolute.better == "lower" and drop.value == pytest.approx(absolute.value) and drop.value > 0
    assert drop.low is not None and drop.low > 0, "more errors are a loss"


@pytest.mark.parametrize(
    ("output", "labels", "message"),
    [
        (np.array([[9, 9]]), ["a"], "writes the token 9, .* has 7 tokens"),
        (np.zeros((1, 2), np.float32), ["a"], "neither logits nor token ids"),
        (np.array([[2, 2]]), np.array([3]), "is no text"),
    ],
)
def test_what_wer_cannot_read(vocabulary: Path, output: np.ndarray, labels: Any, message: str) -> None:
    with pytest.raises(OptimizerError, match=message) as caught:
        WER.examples({"o": output}, batch(np.asarray(labels)), WER.Options(vocabulary=vocabulary))
    assert caught.value.hint


def ppl_rows(logits: np.ndarray, labels: Any, feeds: dict[str, np.ndarray] | None = None, **options: Any) -> np.ndarray:
    found: np.ndarray = PPL.examples(
        {"logits": logits}, batch(labels, **(feeds or {})), schema.parse(PPL.Options, options, "perplexity")
    )
    return found


def test_perplexity_is_torchs_cross_entropy() -> None:
    g = np.random.default_rng(0)
    logits, labels = g.normal(0, 3, (8, 11, 30)).astype(np.float32), g.integers(0, 30, (8, 11))
    labels[:, 7:] = -100
    for shift in (True, False):
        made, wanted = (logits[:, :-1], labels[:, 1:]) if shift else (logits, labels)
        flat = torch.from_numpy(made).reshape(-1, 30).double(), torch.from_numpy(wanted.copy()).reshape(-1)
        expected = math.exp(torch.nn.functional.cross_entropy(*flat))
        assert PPL.summarize(ppl_rows(logits, labels, shift=shift)) == pytest.approx(expected, rel=1e-9)
    testing.check_metric(PPL, {"logits": logits}, batch(labels))


def test_perplexity_by_hand_with_ragged_labels_and_a_mask() -> None:
    logits = np.log(np.tile([0.5, 0.25, 0.125, 0.125], (2, 4, 1)))
    ragged = objects([np.array([3, 0, 1]), np.array([3, 0, 0, 2])])
    rows = ppl_rows(logits, ragged)
    np.testing.assert_allclose(rows, [[math.log(2) + math.log(4), 2, 4], [2 * math.log(2) + math.log(8), 3, 4]])
    assert PPL.summarize(rows) == pytest.approx(2 ** (8 / 5))
    mask = {"attention_mask": np.array([[1, 1, 1, 0], [1, 1, 0, 0]])}
    assert ppl_rows(logits, ragged, mask, mask="attention_mask")[:, 1].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (np.array([[0, 4, 1]]), {}, "the label 4 is no token of the model: its vocabulary has 4"),
        (np.array([[0, 1, 1, 1, 1]]), {}, "a label has 5 tokens, the output only 4"),
        (np.array([0.5]), {}, "not one row of token ids"),
        (np.array([[0, 1]]), {"mask": "mask"}, "unknown model input 'mask'"),
    ],
)
def test_what_perplexity_cannot_read(labels: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        ppl_rows(np.zeros((1, 4, 4)), labels, **options)


@pytest.mark.parametrize(("name", "library"), [("map", "pycocotools"), ("wer", "jiwer")])
def test_a_missing_library_is_named_before_anything_runs(
    name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = machine.version_of
    monkeypatch.setattr(machine, "version_of", lambda tool: None if tool == library else real(tool))
    (tmp_path / "data.csv").write_text("x,label\n1,2\n")
    document = {
        "model": {"entry": "json:loads", "inputs": {"x": "float32[batch]"}},
        "data": {"evaluate": "data.csv"},
        "measure": {"metrics": [name]},
    }
    with pytest.raises(OptimizerError, match=f"the metric '{name}' needs the package '{library}'") as caught:
        planning.plan(recipe.parse(document, "test", tmp_path))
    assert "pip install 'optc[" in str(caught.value.hint)
