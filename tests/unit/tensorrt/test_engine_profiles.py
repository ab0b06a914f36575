"""Which ranges an engine is built for, and which profile a shape falls into."""

from __future__ import annotations

import pytest

from optimizer.errors import OptimizerError
from optimizer.formats.tensorrt import profiles
from optimizer.formats.tensorrt.options import COMPILED, EngineOptions
from optimizer.targets import tensorrt, tensorrt_rtx
from optimizer.values import Signature, TensorSpec

IMAGE = Signature((TensorSpec("image", "float32", ("batch", 3, 8, 8)),), ())
WORDS = Signature(tuple(TensorSpec(n, "int64", ("batch", "sequence")) for n in ("ids", "mask")), ())


def ranges(signature: Signature, batches: tuple[int, ...], **dims: tuple[int, int, int]) -> list[dict[str, object]]:
    return [dict(p.ranges) for p in profiles.plan(signature, batches, dims, "t")]


def test_each_batch_size_ends_a_range_that_is_tuned_for_it() -> None:
    assert ranges(IMAGE, (64, 1, 8)) == [{"batch": (1, 1, 1)}, {"batch": (2, 8, 8)}, {"batch": (9, 64, 64)}]
    assert ranges(IMAGE, ()) == [{"batch": (1, 1, 1)}]


def test_every_size_up_to_the_largest_falls_into_exactly_one() -> None:
    found = profiles.plan(IMAGE, (3, 7, 20), {}, "t")
    for size in range(1, 21):
        assert sum(p.holds({"batch": size}) for p in found) == 1


def test_a_range_for_the_batch_sets_the_ends() -> None:
    assert ranges(IMAGE, (1, 8), batch=(1, 4, 32)) == [
        {"batch": (1, 1, 1)}, {"batch": (2, 4, 4)}, {"batch": (5, 8, 8)}, {"batch": (9, 32, 32)},
    ]  # fmt: skip


def test_a_batch_that_will_be_measured_is_not_left_out_of_the_range() -> None:
    with pytest.raises(OptimizerError, match=r"batches of 100 are asked for .* for batch 2 to 32") as caught:
        ranges(IMAGE, (2, 100), batch=(2, 4, 32))
    assert str(caught.value.hint).startswith("write dims: {batch: [2, 4, 100]}")


def test_other_dimensions_are_the_same_in_all() -> None:
    found = profiles.plan(WORDS, (1, 8), {"sequence": (1, 32, 128)}, "t")
    assert [p.shapes(WORDS.inputs[0]) for p in found] == [((1, 1), (1, 32), (1, 128)), ((2, 1), (8, 32), (8, 128))]


def test_a_model_without_free_dimensions_has_no_profile() -> None:
    fixed = Signature((TensorSpec("x", "float32", (2, 4)),), ())
    assert ranges(fixed, (1, 8)) == []
    assert profiles.sizes(fixed, {"x": (2, 4)}) == {}


def test_a_dimension_that_there_is_not_and_one_that_nothing_is_said_of() -> None:
    with pytest.raises(OptimizerError, match="unknown dimension 'sequnce'"):
        ranges(WORDS, (1,), sequnce=(1, 2, 3))
    with pytest.raises(OptimizerError, match="nothing says how large 'sequence' can be"):
        ranges(WORDS, (1,))


def test_the_profile_is_chosen_by_shape_and_the_narrowest_wins() -> None:
    found = profiles.plan(WORDS, (1, 8), {"sequence": (1, 32, 128)}, "t")
    assert [profiles.choose(found, {"batch": b, "sequence": 9}, "t") for b in (1, 2, 8)] == [0, 1, 1]
    wide, narrow = profiles.Profile({"batch": (1, 8, 64)}), profiles.Profile({"batch": (4, 8, 8)})
    assert profiles.choose([wide, narrow], {"batch": 5}, "t") == 1


def test_a_size_outside_every_profile_is_named_with_the_option_to_set() -> None:
    found = profiles.plan(WORDS, (1, 8), {"sequence": (4, 32, 128)}, "tensorrt-rtx")
    with pytest.raises(OptimizerError, match="sequence is 200, the engine was built for 4 to 128") as caught:
        profiles.choose(found, {"batch": 2, "sequence": 200}, "tensorrt-rtx")
    assert caught.value.hint == "build it for more: targets: [{tensorrt-rtx: {dims: {sequence: [4, 32, 200]}}}]"
    apart = [profiles.Profile({"a": (1, 1, 1), "b": (5, 5, 5)}), profiles.Profile({"a": (2, 2, 2), "b": (1, 1, 1)})]
    with pytest.raises(OptimizerError, match="no profile of the engine holds a 1, b 1 together"):
        profiles.choose(apart, {"a": 1, "b": 1}, "t")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"ids": (2, 5)}, "the input 'mask' is missing; given: ids"),
        ({"ids": (2, 5), "mask": (2, 6)}, r"'mask' has the shape \[2, 6\]"),
        ({"ids": (2, 5, 1), "mask": (2, 5)}, r"'ids' has the shape \[2, 5, 1\]"),
    ],
)
def test_shapes_that_contradict_the_signature(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        profiles.sizes(WORDS, shapes)


def test_options_take_what_they_do_not_say_from_the_recipe() -> None:
    own = EngineOptions(batches=(8,), dims={"sequence": (1, 8, 16)})
    assert own.fitted([1, 8], {"sequence": (1, 32, 32), "width": (1, 2, 3)}, {"sequence": [16]}).dims == {
        "sequence": (1, 8, 16), "width": (1, 2, 3),
    }  # fmt: skip
    assert own.fitted([1, 8], {}, {}).batches == (8,)
    assert EngineOptions().fitted([8, 1, 8], {}, {}).batches == (1, 8)


def test_options_that_leave_out_what_the_recipe_measures_are_refused() -> None:
    own = EngineOptions(batches=(4,), dims={"sequence": (1, 8, 16)})
    with pytest.raises(
        OptimizerError, match=r"times sequence 32, and the option dims builds the engine for 1 to 16"
    ) as e:
        own.fitted([4], {"sequence": (1, 32, 32)}, {"sequence": [8, 32]})
    assert str(e.value.hint).startswith("write dims: {sequence: [1, 32, 32]}")
    with pytest.raises(OptimizerError, match=r"asks for batches of 64 .* builds the engine for up to 4"):
        own.fitted([1, 64], {"sequence": (1, 8, 8)}, {"sequence": [8]})
    assert EngineOptions(batches=(4,), dims={"n": (1, 8, 64)}).fitted([1, 64], {}, {}).batches == (4,)


@pytest.mark.parametrize("target", [tensorrt, tensorrt_rtx])
def test_what_opens_an_engine_is_no_ingredient_of_it(target: object) -> None:
    names = set(target.Options.model_fields)  # type: ignore[attr-defined]
    assert names - set(target.COMPILE) == {"cuda_graph", "boundary", "device"}  # type: ignore[attr-defined]
    assert set(COMPILED) <= names


@pytest.mark.parametrize("dims", [{"x": (3, 2, 4)}, {"x": (1, 8, 4)}, {"x": (0, 1, 2)}])
def test_sizes_out_of_order_are_refused(dims: dict[str, tuple[int, int, int]]) -> None:
    with pytest.raises(ValueError, match=r"least, the usual and the largest|greater than or equal"):
        EngineOptions(dims=dims)
