"""The store: whole entries or none, under crash, damage and concurrency."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer import fingerprint
from optimizer.errors import OptimizerError
from optimizer.store import Store, StoredEntry

KEY = "ab" * 32


def put(store: Store, key: str = KEY, text: str = "weights") -> StoredEntry:
    with store.stage(key) as out:
        (out / "sub").mkdir()
        (out / "model.bin").write_text(text)
        (out / "sub" / "more.txt").write_text("x")
        return store.commit(out, key, {"use": "test", "format": "onnx"})


def test_an_entry_comes_back_with_its_files_digest_and_record(store: Store) -> None:
    made = put(store)
    found = store.get(KEY)
    assert found is not None
    assert (found.path / "model.bin").read_text() == "weights"
    assert (found.use, found.format, found.size) == ("test", "onnx", len("weights") + 1)
    assert found.digest == made.digest
    assert list((store.root / "staging").iterdir()) == []


def test_leaving_the_stage_by_an_exception_leaves_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError), store.stage(KEY) as out:
        (out / "half").write_text("x")
        raise RuntimeError
    assert store.get(KEY) is None
    assert list((store.root / "staging").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: (p / "files" / "model.bin").write_text("w"), "has 1 bytes instead of 7"),
        (lambda p: (p / "files" / "model.bin").unlink(), "is missing"),
        (lambda p: (p / "entry.json").write_text("{"), "unreadable"),
        (lambda p: (p / "entry.json").unlink(), "unreadable"),
        (lambda p: (p / "entry.json").write_text("[]"), "unreadable"),
    ],
)
def test_a_damaged_entry_is_a_warning_and_a_miss(tmp_path: Path, damage, reason: str) -> None:
    said: list[str] = []
    store = Store.open(tmp_path / "s", said.append)
    entry = put(store)
    damage(entry.path.parent)
    assert store.get(KEY) is None
    assert len(said) == 1 and reason in said[0]
    assert put(store).digest == entry.digest
    assert store.get(KEY) is not None


def test_verify_reads_every_byte(store: Store) -> None:
    entry = put(store)
    (entry.path / "model.bin").write_text("WEIGHTS")  # same size: only the digest can tell
    assert store.get(KEY) is not None
    assert store.verify() == [(KEY, "model.bin was altered")]
    assert store.get(KEY) is None
    assert store.verify() == []


def test_trim_removes_the_least_recently_used_first(store: Store) -> None:
    keys = [c * 64 for c in "abc"]
    for age, key in enumerate(keys):
        entry = put(store, key, "x" * 99)
        os.utime(entry.path.parent / "entry.json", (1000 + age, 1000 + age))
    used = store.get(keys[0])
    assert used is not None
    store.touch(used)
    assert [e.key for e in store.trim(200)] == [keys[1]]
    assert [e.key for e in store.entries()] == [keys[0], keys[2]]
    assert store.clear() == 200
    assert store.entries() == []


def test_a_store_in_use_is_not_trimmed_or_cleared(store: Store) -> None:
    put(store)
    with store.in_use():
        with pytest.raises(OptimizerError, match=r"cannot trim the store .* a build is using it"):
            store.trim(0)
        with pytest.raises(OptimizerError, match="cannot clear"):
            store.clear()
        with Store.open(store.root).in_use():
            assert store.get(KEY) is not None
    assert store.clear() > 0


def test_staging_of_a_dead_process_is_swept_and_of_a_living_one_kept(tmp_path: Path) -> None:
    root = tmp_path / "s"
    Store.open(root)
    dead = multiprocessing.Process(target=time.sleep, args=(0,))
    dead.start()
    dead.join()
    (root / "staging" / f"k-{dead.pid}-x").mkdir()
    (root / "staging" / f"k-{os.getpid()}-x").mkdir()
    Store.open(root)
    assert [p.name for p in (root / "staging").iterdir()] == [f"k-{os.getpid()}-x"]


def _slow_writer(root: str) -> None:
    store = Store.open(Path(root))
    with store.lock(KEY), store.stage(KEY) as out:
        (out / "model.bin").write_text("half")
        print("staged", flush=True)
        time.sleep(60)


def test_sigkill_in_the_middle_of_a_step_leaves_no_entry_and_frees_the_lock(tmp_path: Path) -> None:
    root = tmp_path / "s"
    store = Store.open(root)
    writer = multiprocessing.get_context("spawn").Process(target=_slow_writer, args=(str(root),))
    writer.start()
    deadline = time.monotonic() + 30
    while not list((root / "staging").glob("*/files/model.bin")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(writer.pid or 0, signal.SIGKILL)
    writer.join()
    with store.lock(KEY):
        assert store.get(KEY) is None
    Store.open(root)
    assert list((root / "staging").iterdir()) == []


def _build_once(root: str, log: str) -> None:
    store = Store.open(Path(root))
    with store.lock(KEY):
        if store.get(KEY) is None:
            with Path(log).open("a") as stream:
                stream.write("built\n")
            time.sleep(0.2)
            put(store)


def test_two_processes_build_a_key_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    both = [context.Process(target=_build_once, args=(str(tmp_path / "s"), str(log))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [p.exitcode for p in both] == [0, 0]
    assert log.read_text() == "built\n"


def test_a_place_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises((OptimizerError, NotADirectoryError)):
        Store.open(blocked / "store")


def test_no_room_on_disk_says_so_and_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OptimizerError, match="no room on disk"), store.stage(KEY) as out:
        (out / "model.bin").write_text("x")
        monkeypatch.setattr("optimizer.disk.os.fsync", full)
        store.commit(out, KEY, {})
    assert store.get(KEY) is None
    assert list((store.root / "staging").iterdir()) == []


def test_slots_remember_the_last_ingredients(store: Store) -> None:
    assert store.last("int8@openvino: quantize.static") is None
    store.remember("int8@openvino: quantize.static", {"options": {"samples": 300}})
    assert store.last("int8@openvino: quantize.static") == {"options": {"samples": 300}}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, json_values)
def test_changes_are_empty_exactly_for_equal_values(a: object, b: object) -> None:
    assert (fingerprint.changes(a, b) == []) == (fingerprint.of_value(a) == fingerprint.of_value(b))


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_a_key_does_not_depend_on_the_order_of_a_mapping(value: dict) -> None:
    turned = dict(reversed(list(value.items())))
    assert fingerprint.of_value(value) == fingerprint.of_value(turned)
    assert json.loads(fingerprint.canonical(value)) == value


def test_code_digest_follows_local_imports_only(tmp_path: Path) -> None:
    main, part = tmp_path / "main.py", tmp_path / "pkg" / "part.py"
    part.parent.mkdir()
    (part.parent / "__init__.py").write_text("")
    main.write_text("import os\nfrom pkg import part\n")
    part.write_text("X = 1\n")
    (tmp_path / "other.py").write_text("Y = 1\n")
    before = fingerprint.of_code(main)
    (tmp_path / "other.py").write_text("Y = 2\n")
    assert fingerprint.of_code(main) == before
    part.write_text("X = 2\n")
    assert fingerprint.of_code(main) != before
