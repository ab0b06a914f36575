"""The two ways of comparing: from what both records hold, or measured anew in one session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.comparison import baselines, paired, pairing, records
from optimizer.comparison.compare import compare
from optimizer.comparison.values import Comparison, Rules
from optimizer.console import Console
from optimizer.store import Store
from optimizer.subjects import Asked, Opened, open_all
from optimizer.trial.bench import Flags
from optimizer.trial.rerun import pairing_of, plain_run, rerun
from optimizer.values import Run

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
        at_hand = all(self._at_hand(r, [getattr(p, s).name for p in pairs.pairs]) for r, s in self._both(before, after))
        drops = paired.drops(before.run, after.run, pairs, self.store)
        return compare(
            (before.label, before.run), (after.label, after.run), pairs, self.rules, self.across, drops,
            advice=RERUN if at_hand else LONGER,
        )  # fmt: skip

    def again(self, sides: tuple[str, str], flags: Flags, asked: Asked) -> Comparison:
        """Timings from one new session, the rest from the records where there are any."""
        opened = [self._opened(text, asked, place) for place, text in enumerate(sides)]
        runs = [self._run(text, own) for text, own in zip(sides, opened, strict=True)]
        loose = not any(records.is_record(text) for text in sides)
        pairs = pairing_of(runs[0], runs[1], self.renamed, loose)
        session, odd = rerun(pairs, opened[0], opened[1], flags, self.screen)
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
        stored = baselines.path_of(text, self.home)
        known = stored if baselines.is_name(text) and stored.is_file() and not Path(text).is_dir() else text
        return open_all([str(known)], asked, self.store, folder, self.screen)

    def _run(self, text: str, opened: list[Opened]) -> Run:
        return records.read(text, self.home).run if records.is_record(text) else plain_run(text, opened)

    def _both(self, before: records.Record, after: records.Record) -> list[tuple[records.Record, str]]:
        return [(before, "before"), (after, "after")]

    def _at_hand(self, record: records.Record, names: list[str]) -> bool:
        """Whether the artifacts behind a record can be measured again."""
        keys = [c.artifact for c in record.run.candidates if c.name in names and not c.skipped]
        return record.kind == "bundle" or all(key and self.store.get(key) for key in keys)
