"""The journal: what was written is found again, torn and foreign lines are not, and the front keeps ties."""

from __future__ import annotations

from pathlib import Path

from search_lab import GATE, Truth, drop, objective

from optimizer.search import pareto
from optimizer.search.journal import LAYOUT, Journal
from optimizer.values import Trial


def trial(name: str, truth: Truth) -> Trial:
    return Trial(
        name, "a", ["x"], "kept", "r", 1.0, 2.0, "sure",
        objective=objective(name, truth), measurements=(drop(name, truth),),
    )  # fmt: skip


def test_what_was_written_last_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.jsonl"
    journal = Journal(path, "s")
    journal.write("k", trial("one", Truth(2.0, 0.1)), 5.0)
    journal.write("k", trial("two", Truth(3.0, 0.1)), 9.0)
    again = Journal(path, "s")
    assert again.known("k") == trial("two", Truth(3.0, 0.1))
    assert (len(again), again.spent) == (1, 9.0)
    assert again.known("other") is None


def test_another_machine_or_setting_finds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, "s").write("k", trial("one", Truth(2.0, 0.1)), 5.0)
    other = Journal(path, "t")
    assert other.known("k") is None
    assert other.spent == 0.0


def test_a_torn_last_line_is_ignored_with_a_warning_and_written_after(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, "s")
    journal.write("a", trial("one", Truth(2.0, 0.1)), 5.0)
    journal.write("b", trial("two", Truth(2.0, 0.1)), 6.0)
    path.write_bytes(path.read_bytes()[:-20])
    warnings: list[str] = []
    torn = Journal(path, "s", warnings.append)
    assert torn.known("a") is not None
    assert torn.known("b") is None
    assert len(warnings) == 1
    assert "torn" in warnings[0]
    torn.write("b", trial("two", Truth(2.0, 0.1)), 7.0)
    warnings.clear()
    healed = Journal(path, "s", warnings.append)
    assert healed.known("b") is not None
    assert "damaged" in warnings[0], "the torn line stays, and hides no other"


def test_a_line_that_is_no_trial_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(f'{{"layout": {LAYOUT}, "scope": "s", "key": "k", "spent": 1, "trial": {{"name": 3}}}}\n[]\n"x"\n')
    warnings: list[str] = []
    assert len(Journal(path, "s", warnings.append)) == 0
    assert len(warnings) == 3


def test_the_front_holds_what_no_other_beats_in_both_respects_and_keeps_ties() -> None:
    found = [
        trial("fast", Truth(3.0, 2.0)),
        trial("good", Truth(2.0, 0.0)),
        trial("equal", Truth(2.0, 0.0)),
        trial("beaten", Truth(1.9, 0.0)),
        trial("worse", Truth(2.5, 3.0)),
    ]
    assert [t.name for t in pareto.front(found, GATE)] == ["fast", "good", "equal"]


def test_what_was_not_measured_in_both_respects_is_not_on_the_front() -> None:
    blind = Trial("blind", "a", [], "rejected", "r", 1.0, 1.0, objective=objective("blind", Truth(9.0, 0.0)))
    assert [t.name for t in pareto.front([blind, trial("seen", Truth(1.0, 0.0))], GATE)] == ["seen"]
