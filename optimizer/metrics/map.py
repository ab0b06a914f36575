"""COCO mean average precision of an object detector, in percent: over classes and IoU 0.50 to 0.95, or at one IoU."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from optimizer import scores
from optimizer.errors import OptimizerError, missing_extra, unknown
from optimizer.protocols import Batch, Labels
from optimizer.schema import Strict
from optimizer.values import Better, Unit

UNIT: Unit = "%"
BETTER: Better = "higher"
AGAINST: Literal["labels"] = "labels"
LABELS: Labels = "json"
FILL = float("nan")
TOOLS = ("pycocotools",)

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
WIDTH = 4  # numbers per record: class, score or count, matched, ignored; the latter two one bit per IoU threshold
TRUTH, HEADER = -1.0, -2.0  # in place of `matched`: how many boxes of a class there are; how many thresholds
Boxes = Literal["xyxy", "xywh", "cxcywh"]


class Options(Strict):
    boxes: str = Field("boxes", description="the output with boxes, (samples, detections, 4) in the labels' pixels")
    scores: str = Field("scores", description="the output with confidences, (samples, detections)")
    labels: str = Field("labels", description="the output with class numbers, (samples, detections)")
    format: Boxes = Field("xyxy", description="corners of the model's boxes; or corner and size; or centre and size")
    truth: Boxes = Field("xywh", description="the same of the boxes in the data; COCO's is xywh")
    offset: int = Field(0, description="added to the model's class numbers to get those of the data")
    iou: float | None = Field(None, gt=0, lt=1, description="one IoU threshold, e.g. 0.5; default: 0.50 to 0.95")
    max_detections: int = Field(100, ge=1, description="of each image and class, the highest scores")
    min_score: float = Field(0.0, description="detections that do not score above it are padding")


def examples(outputs: Mapping[str, np.ndarray], batch: Batch, options: Options) -> np.ndarray:
    """One record per detection of an image (class, score, matched, ignored) and one per class with true boxes.

    Labels are one JSON object per image, {"boxes": [[x, y, w, h], ...], "labels": [3, ...], "crowd": [0, ...]}
    (crowd may be left out), or an array of rows x, y, w, h, class[, crowd], where a class below 0 is padding.
    Boxes are matched by pycocotools.
    """
    truth = [_truth(label, options.truth) for label in scores.labels(batch.labels, batch.views)]
    found = _detections(outputs, len(truth), options)
    ious = IOUS if options.iou is None else np.array([options.iou])
    kept = [_records(per_class, len(ious)) for per_class in _matched(truth, found, ious, options.max_detections)]
    rows = np.full((len(kept), max(map(len, kept))), np.nan)
    for row, record in zip(rows, kept, strict=True):
        row[: len(record)] = record
    return rows


def summarize(rows: np.ndarray) -> float:
    """The mean over the classes that have true boxes; 0 when none has."""
    return float(weighted(rows, scores.once(rows))[0])


def weighted(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    records = rows.reshape(len(rows), -1, WIDTH)
    image, place = np.nonzero(~np.isnan(records[..., 0]))
    kind, value, matched, ignored = records[image, place].T
    thresholds = int(value[matched == HEADER].max(initial=1))
    true, seen = matched == TRUTH, matched >= 0
    total, classes = np.zeros(len(counts)), np.zeros(len(counts))
    for name in np.unique(kind[true]):
        here = true & (kind == name)
        boxes = counts[:, image[here]] @ value[here]
        own = np.flatnonzero(seen & (kind == name))
        own = own[np.argsort(-value[own], kind="stable")]
        bits = (matched[own].astype(np.int64), ignored[own].astype(np.int64))
        total += np.where(boxes > 0, _precision(image[own], *bits, boxes, counts, thresholds), 0.0)
        classes += boxes > 0
    found: np.ndarray = 100 * total / np.maximum(classes, 1)
    return found


def constant(rows: np.ndarray, classes: np.ndarray | None) -> float:  # noqa: ARG001  # the protocol's signature
    """A model that finds nothing has no precision at any recall."""
    return 0.0


def _precision(
    image: np.ndarray, matched: np.ndarray, ignored: np.ndarray, boxes: np.ndarray, counts: np.ndarray, thresholds: int
) -> np.ndarray:
    """Average precision of one class in each resample, as COCOeval.accumulate computes it, mean over thresholds.

    `image` of each detection, by falling score. Precision is made falling and read at 101 recalls; a recall is
    first reached at a match, so only matches are looked at, each for as many of the 101 as it is the first for.
    """
    found = np.zeros(len(counts))
    block = max(1, (1 << 20) // max(len(image), 1))
    for start in range(0, len(counts), block):
        rows = slice(start, start + block)
        drawn = counts[rows][:, image]
        true = np.maximum(boxes[rows], 1e-300)[:, None]
        for bit in range(thresholds):
            valid = (ignored >> bit & 1) == 0
            hit = np.flatnonzero(valid & (matched >> bit & 1 == 1))
            hits = np.cumsum(drawn[:, hit], axis=1)
            precision = hits / (np.cumsum(drawn * valid, axis=1)[:, hit] + np.spacing(1))
            falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            reached = np.searchsorted(RECALLS, hits / true, side="right")
            new = np.diff(reached, axis=1, prepend=0)
            found[rows] += (falling * new).sum(axis=1) / len(RECALLS)
    return found / thresholds


def _truth(label: Any, kind: Boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4) as xywh, classes and crowd flags of one image."""
    if isinstance(label, np.ndarray) and label.ndim == 2 and label.shape[1] in (5, 6):
        rows = label[label[:, 4] >= 0]
        crowd = rows[:, 5] if rows.shape[1] == 6 else np.zeros(len(rows))
        return _xywh(rows[:, :4], kind), rows[:, 4].astype(int), crowd.astype(int)
    if not isinstance(label, Mapping) or not {"boxes", "labels"} <= set(label):
        raise OptimizerError(
            "the label of an image is no object with boxes and labels, and no array of 5 or 6 numbers per box",
            'write {"boxes": [[x, y, w, h], ...], "labels": [3, ...]} as JSON and set label_as: json in the data',
        )
    boxes = np.asarray(label["boxes"], np.float64).reshape(-1, 4)
    classes = np.asarray(label["labels"], int)
    crowd = np.asarray(label.get("crowd", [0] * len(classes)), int)
    if not len(boxes) == len(classes) == len(crowd):
        raise OptimizerError(
            f"an image has {len(boxes)} boxes, {len(classes)} labels and {len(crowd)} crowd flags", "repair the label"
        )
    return _xywh(boxes, kind), classes, crowd


def _detections(outputs: Mapping[str, np.ndarray], images: int, options: Options) -> list[tuple[np.ndarray, ...]]:
    """Boxes as xywh, scores and classes of each image, without padding."""
    for name in (options.boxes, options.scores, options.labels):
        if name not in outputs:
            raise unknown("output", name, outputs, where="the model (metric options boxes, scores and labels)")
    boxes, score, classes = (outputs[name] for name in (options.boxes, options.scores, options.labels))
    if boxes.ndim != 3 or boxes.shape[2] != 4 or boxes.shape[:2] != score.shape or score.shape != classes.shape:
        raise OptimizerError(
            f"boxes {list(boxes.shape)}, scores {list(score.shape)} and labels {list(classes.shape)} do not belong "
            "together",
            "map needs (samples, detections, 4) and twice (samples, detections); name them in its options",
        )
    if len(boxes) != images:
        raise OptimizerError(f"the model made boxes for {len(boxes)} images of {images}", "check its batch dimension")
    kept = score > options.min_score
    return [
        (_xywh(b[k].astype(np.float64), options.format), s[k].astype(np.float64), c[k].astype(int) + options.offset)
        for b, s, c, k in zip(boxes, score, classes, kept, strict=True)
    ]


def _xywh(boxes: np.ndarray, kind: Boxes) -> np.ndarray:
    first, second = boxes[:, :2], boxes[:, 2:]
    if kind == "xyxy":
        second = second - first
    elif kind == "cxcywh":
        first = first - second / 2
    return np.concatenate([first, second], axis=1)


def _matched(
    truth: Sequence[tuple[np.ndarray, ...]], found: Sequence[tuple[np.ndarray, ...]], ious: np.ndarray, most: int
) -> list[list[dict[str, Any]]]:
    """What COCOeval says of each image, one entry per class."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise missing_extra("pycocotools", "metrics", "the metric 'map'") from None
    images = [{"id": image} for image in range(len(truth))]
    names = sorted({int(c) for _, classes, _ in truth for c in classes} | {int(c) for _, _, cs in found for c in cs})
    true = _annotations(
        (image, b, c, {"iscrowd": int(k)}) for image, t in enumerate(truth) for b, c, k in zip(*t, strict=True)
    )
    seen = _annotations(
        (image, b, c, {"score": float(s)}) for image, f in enumerate(found) for b, s, c in zip(*f, strict=True)
    )
    with contextlib.redirect_stdout(io.StringIO()):  # the library reports to the screen
        sides = []
        for annotations in (true, seen):
            side = COCO()
            side.dataset = {"images": images, "annotations": annotations, "categories": [{"id": n} for n in names]}
            side.createIndex()
            sides.append(side)
        judge = COCOeval(*sides, "bbox")
        judge.params.iouThrs, judge.params.maxDets = ious, [most]
        judge.params.areaRng, judge.params.areaRngLbl = [judge.params.areaRng[0]], ["all"]
        judge.evaluate()
    per_image: list[list[dict[str, Any]]] = [[] for _ in truth]
    for entry in judge.evalImgs:
        if entry is not None:
            per_image[entry["image_id"]].append(entry)
    return per_image


def _annotations(boxes: Iterator[tuple[int, np.ndarray, int, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {"id": number, "image_id": image, "category_id": int(name), "bbox": box.tolist(), "area": box[2] * box[3],
         "iscrowd": 0, **more}
        for number, (image, box, name, more) in enumerate(boxes, start=1)
    ]  # fmt: skip


def _records(per_class: Sequence[Mapping[str, Any]], thresholds: int) -> list[float]:
    """An image's records, flat: the header, then for each class its true boxes and its detections."""
    weights = 1 << np.arange(thresholds)
    flat = [0.0, float(thresholds), HEADER, 0.0]
    for entry in per_class:
        name, count = float(entry["category_id"]), float(np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0))
        if count:
            flat += [name, count, TRUTH, 0.0]
        matched = weights @ (np.asarray(entry["dtMatches"]) > 0)
        ignored = weights @ np.asarray(entry["dtIgnore"]).astype(bool)
        for score, hit, ignore in zip(entry["dtScores"], matched, ignored, strict=True):
            flat += [name, float(score), float(hit), float(ignore)]
    return flat
