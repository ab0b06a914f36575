"""The share of what calibration alone loses that quantization-aware training brings back, on all CIFAR-10 test images.

    python bench/publish.py vision/qat-int8
    python bench/qat.py [--dry-run]

The figure is 1 - drop of `qat` / drop of `ptq`, both against the float model and paired, on the runtime on which
calibration alone loses more; its ends are those of the drop that is left.
"""

from __future__ import annotations

import figures
from figures import HEADLINE

from optimizer import schema
from optimizer.measure.quantiles import Estimate
from optimizer.values import Measurement

RECORD = HEADLINE.parent / "qat-int8.json"
TARGETS = ("onnxruntime", "openvino")


def drop(variant: str, target: str) -> Measurement:
    """The published drop of a variant on a target."""
    run = schema.load_run(RECORD.read_bytes(), RECORD.name)
    subject = f"{variant}@{target}"
    return next(m for m in run.measurements if (m.subject, m.metric, m.relation) == (subject, "top1", "drop"))


def main() -> None:
    given = figures.arguments(str(__doc__).splitlines()[0], rounds=1)
    target = max(TARGETS, key=lambda name: drop("ptq", name).value)
    calibrated, trained = drop("ptq", target), drop("qat", target)
    assert trained.low is not None
    assert trained.high is not None
    ends = [100 * (1 - value / calibrated.value) for value in (trained.value, trained.high, trained.low)]
    figures.publish([figures.figure("qat.recovered_share", Estimate(*ends), trained.n, "%")], given.dry_run)


if __name__ == "__main__":
    main()
