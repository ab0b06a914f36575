"""The training sentences of SICK and SST-2, each once, without labels: text to distill a sentence encoder on."""

from __future__ import annotations

import csv
import os
import random
from pathlib import Path


def training(seed: int = 0) -> list[dict[str, str]]:
    """Rows with the column `text`, shuffled; read from ${OPTC_DATA}/sick and ${OPTC_DATA}/sst2."""
    data = Path(os.environ["OPTC_DATA"])
    found: dict[str, None] = {}
    with (data / "sick" / "SICK_train.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            found.update(dict.fromkeys((row["sentence_A"], row["sentence_B"])))
    for line in (data / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines():
        found[line.partition("\t")[0]] = None
    texts = list(found)
    random.Random(seed).shuffle(texts)
    return [{"text": text} for text in texts]
