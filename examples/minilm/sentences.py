"""English sentences without labels for distillation: the training text of SICK and of SST-2."""

from __future__ import annotations

import csv
import os
from pathlib import Path


def training_text() -> list[dict[str, str]]:
    """Every distinct sentence of `${OPTC_DATA}/sick/SICK_train.tsv` and `/sst2/train.tsv`, as the column `text`."""
    root = Path(os.environ["OPTC_DATA"])
    with (root / "sick" / "SICK_train.tsv").open(encoding="utf-8", newline="") as stream:
        pairs = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = [row[column] for column in ("sentence_A", "sentence_B") for row in pairs]
    with (root / "sst2" / "train.tsv").open(encoding="utf-8") as stream:
        found += [line.rpartition("\t")[0] for line in stream]
    return [{"text": text} for text in dict.fromkeys(found)]
