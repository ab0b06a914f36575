"""The manifest: canonical bytes, its own digest, and names that cannot leave the bundle."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.bundle import manifest as manifests
from optimizer.bundle.manifest import FileRecord, Manifest, decode, encode, folders, path_fault, seal
from optimizer.errors import OptimizerError
from optimizer.values import DataRecord, Measurement, Signature, TensorSpec, Verdict

MODEL = "model/model.onnx"
words = st.text(max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False)
hashes = st.integers(0, 2**256 - 1).map("{:064x}".format)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(words, json_values, max_size=4)
names = st.text("abcxyz0._-", min_size=1, max_size=8).filter(lambda n: n.strip(".") == n)
records = st.builds(FileRecord, size=st.integers(0, 2**40), sha256=hashes)
specs = st.builds(
    TensorSpec, words, st.sampled_from(["float32", "int64"]),
    st.lists(st.integers(1, 512) | st.sampled_from(["batch", "sequence"]), max_size=4).map(tuple),
)  # fmt: skip
measurements = st.builds(
    Measurement, words, words, st.sampled_from(["absolute", "drop", "speedup", "ratio"]), numbers,
    st.none() | numbers, st.none() | numbers, st.integers(0, 10**6), words, st.sampled_from(["higher", "lower"]),
    st.none() | words, documents, documents, words,
)  # fmt: skip


@st.composite
def made(draw: st.DrawFn) -> Manifest:
    files = {MODEL: draw(records)}
    files.update({f"extra/{n}": r for n, r in draw(st.dictionaries(names, records, max_size=4)).items()})
    return Manifest(
        **_fields(
            files=files,
            signature=Signature(
                tuple(draw(st.lists(specs, min_size=1, max_size=3))), tuple(draw(st.lists(specs, max_size=2)))
            ),
            preprocessing=draw(documents),
            measurements=tuple(draw(st.lists(measurements, max_size=3))),
            verdicts=tuple(Verdict(t, t, "fail", t) for t in draw(st.lists(words, max_size=2))),
            weights_license=draw(st.none() | words),
            provenance={
                "recipe": draw(documents),
                "steps": tuple(draw(st.lists(documents, max_size=2))),
                "tools": draw(st.dictionaries(words, words, max_size=3)),
                "data": (DataRecord("evaluate", draw(words), draw(hashes), 7, draw(st.none() | words), ("odd",)),),
            },
        )
    )


def _fields(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "version": "0.1.0",
        "bundle": "tiny-fp32-onnxruntime",
        "name": "tiny",
        "variant": "fp32",
        "target": "onnxruntime",
        "created": "2026-01-02T03:04:05+00:00",
        "format": "onnx",
        "model": MODEL,
        "signature": {"inputs": (), "outputs": ()},
        "preprocessing": {},
        "runtime": {"distribution": "onnxruntime", "version": "1.0", "options": {"threads": 1}, "precision": "f32"},
        "environment": {
            "architecture": "x86_64",
            "isa": ("avx2",),
            "cpu": "A CPU",
            "os": "Linux",
            "python": "3.11",
            "digest": "",
        },
        "samples": (),
        "tolerance": 1e-3,
        "measurements": (),
        "verdicts": (),
        "weights_license": None,
        "provenance": {"recipe": {}, "steps": (), "tools": {}, "data": ()},
        "files": {MODEL: {"size": 1, "sha256": "0" * 64}},
    }
    return {**fields, **changes}


def simple(**changes: Any) -> Manifest:
    return seal(Manifest(**_fields(**changes)))


def _rewritten(manifest: Manifest, **changes: Any) -> bytes:
    """The bytes of a manifest edited as by a tool that knows JSON and not the digest."""
    return json.dumps({**json.loads(encode(manifest)), **changes}, indent=1).encode() + b"\n"


@given(made())
def test_reads_back_what_was_written_and_writes_the_same_bytes_again(manifest: Manifest) -> None:
    data = encode(seal(manifest))
    found = decode(data, "manifest.json")
    assert encode(found) == data
    assert found.files == manifest.files
    assert found.signature == manifest.signature
    assert found.preprocessing == manifest.preprocessing
    assert [dataclasses.asdict(m) for m in found.measurements] == [dataclasses.asdict(m) for m in manifest.measurements]


@given(st.data())
def test_every_flipped_bit_of_a_manifest_is_refused(data: st.DataObject) -> None:
    original = encode(simple())
    place = data.draw(st.integers(0, len(original) - 1))
    altered = bytearray(original)
    altered[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(OptimizerError):
        decode(bytes(altered), "manifest.json")


def test_another_spelling_of_the_same_json_is_refused() -> None:
    compact = json.dumps(json.loads(encode(simple()))).encode()
    with pytest.raises(OptimizerError, match="altered"):
        decode(compact, "manifest.json")


def test_a_changed_number_is_refused() -> None:
    with pytest.raises(OptimizerError, match="altered"):
        decode(_rewritten(simple(), tolerance=0.5), "manifest.json")


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_an_unknown_schema_is_refused_with_what_is_known(schema: Any) -> None:
    with pytest.raises(OptimizerError, match=r"schema .* is unknown; this version of optc reads 1"):
        decode(_rewritten(simple(), schema=schema), "manifest.json")


def test_an_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(OptimizerError, match="unknown key 'colour'"):
        decode(_rewritten(simple(), colour="red"), "manifest.json")


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[]", b"{}", b"[" * 100_000, b'"text"'])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(OptimizerError):
        decode(data, "manifest.json")


def test_a_huge_manifest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_BYTES", 100)
    with pytest.raises(OptimizerError, match="the limit is 100"):
        decode(encode(simple()), "manifest.json")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "absolute"),
        ("~/x", "absolute"),
        ("C:/x", "absolute"),
        ("../x", "climb out"),
        ("a/../../x", "climb out"),
        ("a\\..\\x", "climb out"),
        ("", "no plain"),
        ("a//b", "no plain"),
        ("./a", "no plain"),
        ("a/", "no plain"),
        ("a\nb", "no plain"),
        ("a\0b", "no plain"),
    ],
)
def test_names_that_could_leave_the_bundle(name: str, reason: str) -> None:
    assert reason in (path_fault(name) or "")
    record = {"size": 1, "sha256": "0" * 64}
    with pytest.raises(OptimizerError):
        decode(_rewritten(simple(), files={MODEL: record, name: record}), "manifest.json")


@pytest.mark.parametrize("name", ["a", "a/b.txt", "a..b", "..a", ".hidden", "ä/ö", "model/weights.bin"])
def test_plain_names_are_fine(name: str) -> None:
    assert path_fault(name) is None


@pytest.mark.parametrize("other", ["Model/model.onnx", "MODEL", "model", "Manifest.json", "manifest.json"])
def test_names_that_some_file_systems_take_for_one(other: str) -> None:
    record = {"size": 1, "sha256": "0" * 64}
    with pytest.raises(ValueError, match=r"file"):
        Manifest(**_fields(files={MODEL: record, other: record}))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "model/other.onnx"},
        {"samples": ({"inputs": "samples/0/inputs.npz", "expected": MODEL},)},
        {"bundle": "../up"},
        {"tolerance": -1.0},
        {"files": {MODEL: {"size": -1, "sha256": "0" * 64}}},
        {"files": {MODEL: {"size": 1, "sha256": "0" * 63}}},
    ],
)
def test_a_manifest_that_contradicts_itself(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Manifest(**_fields(**changes))


def test_too_many_files() -> None:
    record = FileRecord(size=0, sha256="0" * 64)
    files = {MODEL: record, **{f"f{n}": record for n in range(manifests.MAX_FILES)}}
    with pytest.raises(ValueError, match="the limit is"):
        Manifest(**_fields(files=files))


def test_folders_are_all_parents() -> None:
    assert folders(["a/b/c.txt", "a/d", "e"]) == {"a", "a/b"}


BEST = {
    "objective": "throughput", "options": {"threads": 1, "streams": 2}, "batch": 8, "value": 5.0, "low": 4.0,
    "high": 6.0, "unit": "1/s",
}  # fmt: skip


def test_a_manifest_without_recommended_settings_keeps_its_bytes() -> None:
    data = encode(simple())
    assert b"recommended" not in data  # as before there was such a field
    assert decode(data, "manifest.json").runtime.recommended == ()


def test_recommended_settings_are_read_back_and_sealed() -> None:
    runtime = _fields()["runtime"] | {"recommended": [BEST]}
    data = encode(simple(runtime=runtime))
    (found,) = decode(data, "manifest.json").runtime.recommended
    assert (found.objective, found.options, found.batch, found.high) == ("throughput", BEST["options"], 8, 6.0)
    with pytest.raises(OptimizerError, match="altered"):
        decode(data.replace(b'"value": 5.0', b'"value": 9.0'), "manifest.json")
