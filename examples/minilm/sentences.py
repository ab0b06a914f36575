"""English sentences to distil a sentence encoder on: the training text of SICK and SST-2, without labels."""

from __future__ import annotations

import csv
import os
from pathlib import Path


def sentences() -> list[dict[str, str]]:
    """Each sentence once, as {"text": ...}. Sentences of SICK's test pairs are left out, though labels are not used.

    SICK draws its pairs from one pool of sentences, so that most training sentences occur in test pairs as well.
    Reads ${OPTC_DATA}/sick and ${OPTC_DATA}/sst2.
    """
    data = Path(os.environ["OPTC_DATA"])
    judged = set(_sick(data / "sick" / "SICK_test_annotated.tsv"))
    found = [*_sick(data / "sick" / "SICK_train.tsv"), *_sst2(data / "sst2" / "train.tsv")]
    return [{"text": text} for text in dict.fromkeys(found) if text not in judged]


def _sick(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row[name].strip() for row in rows for name in ("sentence_A", "sentence_B")]


def _sst2(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as stream:
        return [line.rpartition("\t")[0].strip() for line in stream if line.strip()]
