"""The two ways of comparing: from what both records hold, or measured anew in one session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optimizer.comparison import baselines, paired, pairing, records
from optimizer.comparison.compare import compare
from optimizer.comparison.values import Comparison, Rules
from optimizer.console import Console
from optimizer.store import Store
from optimizer.subjects import Asked, Opened, open_all
from optimizer.trial.bench import Flags
from optimizer.trial.rerun import pairing_of, plain_run, rerun

RERUN = (
    "Both artifacts are at hand: --rerun measures them anew, interleaved in one session, which is the strongest answer."
)
LONGER = "Measure both longer (more restarts narrow the interval most) or on a quieter machine."


@dataclass(frozen=True)
class Work:
    """What both ways of comparing need."""

    screen: Console
    home: Path
    store: Store
    folder: Path  # temporary
    rules: Rules
    across: Sequence[str]
    renamed: Mapping[str, str]

    def recorded(self, sides: tuple[str, str]) -> Comparison:
        """From what both records hold."""
        before, after = (records.read(text, self.home) for text in sides)
        pairs = pairing.pair(before.run, after.run, self.renamed)
        names = [p.before.name for p in pairs.pairs], [p.after.name for p in pairs.pairs]
        at_hand = self._at_hand(before, names[0]) and self._at_hand(after, names[1])
        drops = paired.drops(before.run, after.run, pairs, self.store)
        return compare(
            (before.label, before.run), (after.label, after.run), pairs, self.rules, self.across, drops,
            advice=RERUN if at_hand else LONGER,
        )  # fmt: skip

    def again(self, sides: tuple[str, str], flags: Flags, asked: Asked) -> Comparison:
        """Timings from one new session; size and accuracy from the records, where both sides have one."""
        opened = [self._opened(text, asked, place) for place, text in enumerate(sides)]
        recorded = all(records.is_record(text, self.home) for text in sides)
        runs = [
            records.read(text, self.home).run if recorded else plain_run(text, own)
            for text, own in zip(sides, opened, strict=True)
        ]
        pairs = pairing_of(runs[0], runs[1], self.renamed, loose=not recorded)
        decided = replace(flags, min_speedup=f"{1 / (1 + self.rules.ratios['latency.p50']):.6f}x")
        session, odd = rerun(pairs, opened[0], opened[1], decided, self.screen)
        for text in odd:
            self.screen.warn(text)
        drops = paired.drops(runs[0], runs[1], pairs, self.store)
        return compare(
            (sides[0], runs[0]), (sides[1], runs[1]), pairs, self.rules, self.across, drops, session,
            advice="Measure longer: --seconds, and --restarts most of all.",
        )  # fmt: skip

    def _opened(self, text: str, asked: Asked, place: int) -> list[Opened]:
        folder = self.folder / f"side-{place}"
        folder.mkdir()
        name, mark, pick = text.partition("#")
        is_baseline = baselines.is_name(name) and records.is_record(name, self.home) and not Path(name).is_dir()
        known = f"{baselines.path_of(name, self.home)}{mark}{pick}" if is_baseline else text
        return open_all([known], asked, self.store, folder, self.screen)

    def _at_hand(self, record: records.Record, names: list[str]) -> bool:
        """Whether the artifacts behind a record can be measured again."""
        keys = [c.artifact for c in record.run.candidates if c.name in names and not c.skipped]
        return record.kind == "bundle" or all(key and self.store.get(key) for key in keys)
