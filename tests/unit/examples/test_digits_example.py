"""The shipped digits model: its data, its weights, and a card that prepares images as training did."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from optimizer import content, dataset
from optimizer.recipe import DataRef
from optimizer.values import Signature, TensorSpec

torch = pytest.importorskip("torch")
HERE = content.root("examples") / "digits"
SIGNATURE = Signature((TensorSpec("image", "float32", ("batch", 1, 32, 32)),), ())


@pytest.fixture(scope="module")
def training() -> ModuleType:
    """examples/digits/train.py as a module; it is a script with a sibling, so its folder is importable meanwhile."""
    before = sys.modules.pop("model", None)
    sys.path.insert(0, str(HERE))
    try:
        spec = importlib.util.spec_from_file_location("digits_train", HERE / "train.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(HERE))
        sys.modules.pop("model", None)
        if before is not None:
            sys.modules["model"] = before


@pytest.fixture(scope="module")
def net(training: ModuleType) -> torch.nn.Module:
    from safetensors.torch import load_file

    found = training.DigitsNet()
    found.load_state_dict(load_file(HERE / "weights.safetensors"), strict=True)
    return found.eval()


def arrays(name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(HERE / f"{name}.npz", allow_pickle=False) as found:
        return found["image"], found["label"]


def test_shipped_files_are_what_the_script_makes_of_scikit_learns_digits(training: ModuleType) -> None:
    pytest.importorskip("sklearn")
    images, labels = training.upsampled_digits()
    for name, rows in zip(("train", "test"), training.split(labels), strict=True):
        shipped, shipped_labels = arrays(name)
        assert shipped.dtype == np.uint8
        np.testing.assert_array_equal(shipped_labels, labels[rows])
        # Another version of Pillow may round the other way.
        assert np.abs(shipped.astype(int) - images[rows]).max() <= 1


def test_the_sets_share_no_image_and_training_is_balanced() -> None:
    train, labels = arrays("train")
    test, _ = arrays("test")
    assert np.bincount(labels).tolist() == [79] * 10
    assert len(train) + len(test) == 1797
    assert not {i.tobytes() for i in train} & {i.tobytes() for i in test}


@pytest.mark.parametrize(("split", "count"), [("train", 790), ("train-512", 512), ("test", 1007)])
def test_the_card_prepares_images_as_training_did(training: ModuleType, split: str, count: int) -> None:
    stream = dataset.open(dataset.resolve(DataRef(ref=f"digits/{split}"), Path()), f"digits/{split}", SIGNATURE, 0)
    assert len(stream) == count
    batch = next(iter(stream.batches(16)))
    images, labels = arrays("test" if split == "test" else "train")
    np.testing.assert_allclose(batch.feeds["image"], training.to_tensor(images[:16]).numpy(), atol=1e-6)
    assert batch.labels is not None
    np.testing.assert_array_equal(batch.labels, labels[:16])


def test_the_weights_know_the_digits(training: ModuleType, net: torch.nn.Module) -> None:
    images, labels = arrays("test")
    torch.set_num_threads(1)
    share = training.accuracy(net, training.to_tensor(images), torch.from_numpy(labels))
    assert share >= 0.995
    assert sum(p.numel() for p in net.parameters()) == 112_106


def test_augmentation_keeps_shape_range_and_background(training: ModuleType) -> None:
    torch.manual_seed(1)
    images = training.to_tensor(arrays("train")[0][:64])
    changed = training.augment(images)
    assert changed.shape == images.shape
    assert changed.min() >= images.min() - 1e-5
    assert changed.max() <= images.max() + 1e-5
    assert not torch.equal(changed, images)
    black = torch.full((2, 1, 32, 32), -training.MEAN / training.STD)
    torch.testing.assert_close(training.augment(black), black)
