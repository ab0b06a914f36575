"""quantize.static on OpenVINO IR through NNCF: same options, same names, no word to the network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino")
pytest.importorskip("nncf")

from quant_lab import OPENVINO, Bench, artifact, attention, convnet, error, images, lowered, outputs, precision, tokens

from optimizer.errors import OptimizerError
from optimizer.formats import openvino as openvino_format
from optimizer.passes import half

IMAGES = images(16, seed=9).feeds


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_a_network_is_quantized_whole_and_stays_near(
    bench: Bench, method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source = lowered(artifact(convnet(), bench.root / "m"), bench.root / "ir")
    data = images()
    found = bench.static(source, OPENVINO, data, method=method, samples=20)
    assert capfd.readouterr() == ("", "")
    signature = openvino_format.read(found.path)
    assert [s.name for s in (*signature.inputs, *signature.outputs)] == ["image", "logits"]
    assert bench.notes["quantized"]["Convolution"] == 2 and bench.notes["quantized"]["MatMul"] == 1
    assert bench.notes["architecture"] == "cnn"
    assert precision(found) == "int8 (3 of 3 convolutions and matrix products), float32 elsewhere"
    assert 0 < error(outputs(source, IMAGES), outputs(found, IMAGES)) < 0.15
    assert set(data.given) == {1} and sum(data.given) >= 20
    assert bench.steps[-1] == (20, 20)


@pytest.mark.parametrize("keep", ["conv2", "node_conv2", "/conv2/"])
def test_kept_nodes_are_named_as_in_onnx(bench: Bench, keep: str) -> None:
    source = lowered(artifact(convnet(), bench.root / "m"), bench.root / "ir")
    found = bench.static(source, OPENVINO, keep=[keep], samples=4)
    assert bench.notes["quantized"]["Convolution"] == 1
    assert all("node_conv2" in name for name in bench.notes["kept"])
    assert precision(found).startswith("int8 (2 of 3")


def test_onnx_operator_types_select_too(bench: Bench) -> None:
    source = lowered(artifact(convnet(), bench.root / "m"), bench.root / "ir")
    found = bench.static(source, OPENVINO, ops=["Conv"], samples=4)
    assert bench.notes["quantized"] == {"Convolution": 2} and precision(found).startswith("int8 (2 of 3")
    with pytest.raises(OptimizerError, match="'op:Cov' matches nothing; operator types here: Add, "):
        bench.static(source, OPENVINO, keep=["op:Cov"])
    with pytest.raises(OptimizerError, match="unknown operator type 'Conf'"):
        bench.static(source, OPENVINO, ops=["Conf"])
    with pytest.raises(OptimizerError, match="nothing is left to quantize"):
        bench.static(source, OPENVINO, keep=["*"])
    with pytest.raises(OptimizerError, match="quantized already"):
        bench.static(found, OPENVINO)


def test_a_transformer_is_seen_as_one(bench: Bench) -> None:
    source = lowered(artifact(attention(mask=-1e4), bench.root / "m"), bench.root / "ir")
    found = bench.static(source, OPENVINO, tokens(), samples=8)
    assert bench.notes["architecture"] == "transformer"
    feeds = tokens(8).feeds
    assert error(outputs(source, feeds), outputs(found, feeds)) < 0.1


def test_the_precision_that_a_source_asks_for_is_kept(bench: Bench) -> None:
    source = lowered(artifact(convnet(), bench.root / "m"), bench.root / "ir")
    found = bench.static(bench.run(half, source, OPENVINO, dtype="bf16"), OPENVINO, samples=4)
    assert openvino_format.precision(found.path) == "bf16"


SILENT = """
import sys
seen = []
watched = ("socket.", "subprocess.", "os.fork", "os.posix_spawn", "http.", "urllib.")
def look(event, args):
    local = event == "subprocess.Popen" and args[0] == "/sbin/ldconfig"  # how ctypes finds a library
    if event.startswith(watched) and not local:
        seen.append(event)
sys.addaudithook(look)
from pathlib import Path
from quant_lab import OPENVINO, Bench, artifact, convnet, lowered
root = Path(sys.argv[1])
source = lowered(artifact(convnet(), root / "m"), root / "ir")
Bench(root).static(source, OPENVINO, samples=2)
import time
time.sleep(0.2)
import json
print(json.dumps([seen, "openvino_telemetry" in sys.modules and sys.modules["openvino_telemetry"] is None]))
"""


def test_no_library_calls_home(tmp_path: Path) -> None:
    # In a process of its own: under pytest NNCF replaces its telemetry by a mock.
    home = tmp_path / "home"
    home.mkdir()
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
    done = subprocess.run(
        [sys.executable, "-c", SILENT, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(home), "PYTHONPATH": ":".join(paths), "PATH": ""},
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [[], True]
    assert list(home.iterdir()) == []
