"""optc doctor: what it calls a problem, and what it advises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optimizer import doctor, listing, machine, registry
from optimizer.cli import main
from optimizer.doctor import Finding
from optimizer.errors import EXIT_OK, EXIT_USAGE
from optimizer.listing import Item
from optimizer.values import Machine


def installed(**versions: str) -> dict[str, str]:
    """What is installed here, with some versions replaced; the empty version removes one."""
    found = {**doctor._installed(), **{name.replace("_", "-"): version for name, version in versions.items()}}
    return {name: version for name, version in found.items() if version}


def named(findings: list[Finding], name: str) -> Finding:
    return next(f for f in findings if f.name == name)


def test_this_machine_is_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == EXIT_OK
    found = json.loads(capsys.readouterr().out)
    assert found["healthy"] is True
    assert {f["area"] for f in found["findings"]} >= {"machine", "target", "extra", "install", "store"}
    assert main(["doctor"]) == EXIT_OK
    said = capsys.readouterr().out
    assert "targets" in said and "onnxruntime" in said and "ready: " in said


def test_no_usable_target_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(listing, "items", lambda section: [Item("x", "built-in", "", "no GPU; get one")])
    assert main(["doctor"]) == EXIT_USAGE
    said = capsys.readouterr().out
    assert "no GPU" in said and "next: get one" in said and "not ready: 0 usable targets" in said


def test_two_onnx_runtimes_overwrite_each_other() -> None:
    twice = installed(onnxruntime="1.22.0", onnxruntime_gpu="1.22.0")
    (found,) = doctor._runtimes(twice)
    assert found.level == "problem"
    assert "onnxruntime and onnxruntime-gpu are both installed" in found.text
    assert found.fix and found.fix.startswith("pip uninstall onnxruntime onnxruntime-gpu")
    assert not list(doctor._runtimes(installed(onnxruntime_extensions="0.13", onnxruntime_genai="0.9")))


def test_a_version_that_we_do_not_accept_is_a_conflict() -> None:
    found = named(list(doctor._conflicts(installed(protobuf="5.29.0"))), "protobuf")
    assert found.level == "problem"
    assert "optc needs protobuf" in found.text and "5.29.0 is installed" in found.text
    assert found.fix and found.fix.startswith("pip install 'protobuf")


def test_a_version_that_a_package_below_ours_does_not_accept_is_a_conflict() -> None:
    found = named(list(doctor._conflicts(installed(pydantic_core="0.1"))), "pydantic-core")
    assert found.text.startswith("pydantic needs pydantic-core==")


def test_a_missing_requirement_is_a_conflict_but_a_missing_extra_is_not() -> None:
    assert named(list(doctor._conflicts(installed(jinja2=""))), "jinja2").level == "problem"
    (fine,) = doctor._conflicts(installed(pyarrow=""))
    assert fine.level == "ok"


def test_extras_say_what_they_lack() -> None:
    extras = list(doctor._extras(installed(nncf="", pyarrow="")))
    assert named(extras, "openvino").text == "lacks nncf"
    assert named(extras, "data").text == "not installed"
    assert named(extras, "data").fix == "pip install 'optc[data]'"
    assert {f.name for f in extras}.isdisjoint({"all", "dev"})


def test_a_cpu_without_integer_instructions_is_warned_about() -> None:
    plain = Machine("old", "x86_64", 4, ("avx2",), 8 << 30, "Linux", "3.11")
    found = {f.name: f for f in doctor._machine(plain)}
    assert found["int8"].level == "warning"
    assert found["bf16"].level == "absent"
    fast = Machine("new", "x86_64", 4, ("avx512_vnni", "amx_bf16"), 8 << 30, "Linux", "3.11")
    assert "avx512_vnni" in {f.name: f for f in doctor._machine(fast)}["int8"].text


def test_a_broken_third_party_plugin_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = registry.Entry("mine", "my.plugin", False, "ImportError: no module named x")
    real = registry.entries
    monkeypatch.setattr(
        registry, "entries", lambda kind: {**real(kind), "mine": broken} if kind == "passes" else real(kind)
    )
    (found,) = doctor._plugins()
    assert (found.level, found.name, found.text) == ("warning", "step mine", "ImportError: no module named x")
    item = next(i for i in listing.items("passes") if i.name == "mine")
    assert item.trouble == "broken: ImportError: no module named x"
    assert item.origin == "my.plugin"


def test_the_store_must_be_a_folder_with_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fine,) = doctor._store(tmp_path / "deep" / "store")
    assert fine.level == "ok"
    assert not (tmp_path / "deep").exists(), "looking creates nothing"
    (tmp_path / "file").write_text("")
    (bad,) = doctor._store(tmp_path / "file" / "store")
    assert bad.level == "problem"
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 5_000_000})())
    (full,) = doctor._store(tmp_path)
    assert (full.level, full.text) == ("warning", "writable, 5 MB free")


def test_health_needs_a_target_and_no_problem() -> None:
    target = Finding("target", "x", "ok", "")
    assert doctor.healthy([target, Finding("install", "y", "warning", "")])
    assert not doctor.healthy([target, Finding("install", "y", "problem", "")])
    assert not doctor.healthy([])


def test_machine_facts_are_those_of_the_machine() -> None:
    assert machine.here().cpu in named(list(doctor._machine(machine.here())), "cpu").text
