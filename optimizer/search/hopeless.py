"""What the outputs of a trial alone say, before it is timed or judged: whether any gate on accuracy can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optimizer.gates import Gate
from optimizer.search import pareto
from optimizer.values import Trial

NOISE = 1.0  # noise over signal of the outputs from which nothing is left of them
WORSE = 2.0  # times the noise of a trial that broke the gates: 3 dB, more than two samples of one model differ by
RUINED = "its outputs are noise, no closer to the baseline's than zeros are"


def hopeless(trial: Trial, trials: Sequence[Trial], gate: Gate) -> str | None:
    """Why no gate on accuracy will hold for a trial, as far as its outputs and those of other trials tell."""
    error = trial.error if trial.error is not None else 0.0
    if not math.isfinite(error):
        return "its outputs are no numbers where the baseline's are"
    broken = [t for t in trials if t.standing == "broken" and t.error is not None and t.gap]
    worse = next((t for t in broken if t.error and error > WORSE * t.error and inaccurate(t, gate)), None)
    if worse is None or not worse.error:
        return None
    text = f"its outputs are {decibels(error)} dB above their error, those of {worse.name} are "
    return f"{text}{decibels(worse.error)} dB, and broke: {worse.gap}"


def inaccurate(trial: Trial, gate: Gate) -> bool:
    """Whether it is accuracy that a trial lacks, and surely."""
    lost = pareto.harm(trial, gate)
    end = None if lost is None else (lost.low if gate.below else lost.high)
    return end is not None and (end > gate.threshold) == gate.below


def doubtful(trial: Trial, gate: Gate) -> bool:
    """Whether a trial meets its gates, but the interval of its accuracy reaches beyond what is allowed."""
    lost = pareto.harm(trial, gate)
    end = None if lost is None else (lost.high if gate.below else lost.low)
    return trial.standing == "possible" and end is not None and (end > gate.threshold) == gate.below


def ruined(trial: Trial) -> bool:
    """Whether no metric is needed to see that nothing is left of the outputs."""
    return trial.error is not None and trial.error >= NOISE


def decibels(error: float) -> str:
    """Noise over signal as a signal to noise ratio."""
    return f"{-10 * math.log10(error):.1f}" if error > 0 else "inf"
