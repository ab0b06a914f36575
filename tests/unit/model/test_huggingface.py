"""Hugging Face directories with random weights: inputs from the config, outputs by the task."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from optimizer.errors import OptimizerError
from optimizer.formats.feeds import synthetic_feeds
from optimizer.formats.torch import open_model

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def saved(path: Path, model: str, config: str, **options) -> Path:
    from optimizer.formats.quiet import quiet

    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        getattr(transformers, model)(getattr(transformers, config)(**options)).save_pretrained(path)
    return path


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return saved(tmp_path / "bert", "BertModel", "BertConfig", vocab_size=40, max_position_embeddings=20, **SMALL)


@pytest.fixture
def t5(tmp_path: Path) -> Path:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    return saved(tmp_path / "t5", "T5EncoderModel", "T5Config", **sizes)


def test_text_inputs_and_the_longest_sequence_come_from_the_config(bench, bert):
    source = bench.load(hf=str(bert))
    assert [s.name for s in source.signature.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert str(source.signature.outputs[0]) == "float32[batch,sequence,16]"
    assert open_model(source.path).record.dims == {"sequence": (1, 20)}


def test_sentence_similarity_pools_over_the_mask_to_unit_length(bench, bert):
    source = bench.load(hf=str(bert), task="sentence-similarity")
    tokens = bench.load(hf=str(bert), task="feature-extraction")
    feeds = dict(synthetic_feeds(source.signature, {"batch": 2, "sequence": 6}, 0))
    feeds["attention_mask"][1, 3:] = 0
    hidden = open_model(tokens.path)(feeds)["last_hidden_state"]
    mask = feeds["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(open_model(source.path)(feeds)["embedding"], expected, rtol=1e-4, atol=1e-6)


def test_pooling_follows_the_directory(bench, bert):
    (bert / "1_Pooling").mkdir()
    (bert / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    source = bench.load(hf=str(bert), task="sentence-similarity")
    feeds = synthetic_feeds(source.signature, {"batch": 2, "sequence": 6}, 0)
    assert open_model(source.path)(feeds)["embedding"].shape == (2, 16)
    (bert / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(OptimizerError, match="max_tokens is not supported"):
        bench.load(hf=str(bert), task="sentence-similarity")


def test_an_embedder_exports_and_gives_way_to_its_outputs_name(bench, bert):
    source = bench.load(hf=str(bert), task="sentence-similarity")
    found = bench.export(source)
    assert str(found.signature.outputs[0]) == "float32[batch,16]"
    assert [str(s) for s in found.signature.inputs] == ["int64[batch,sequence]"] * 3
    assert bench.notes["renamed"] == ["embedding"] and bench.notes["exporter"] == "dynamo"


def test_image_inputs_come_from_the_config(bench, tmp_path):
    folder = saved(
        tmp_path / "vit", "ViTForImageClassification", "ViTConfig", image_size=16, patch_size=8, num_labels=3, **SMALL
    )
    source = bench.load(hf=str(folder))
    assert str(source.signature.inputs[0]) == "float32[batch,3,16,16]"
    assert str(source.signature.outputs[0]) == "float32[batch,3]"


def test_positions_that_start_after_the_padding_shorten_the_sequence(bench, tmp_path):
    folder = saved(
        tmp_path / "roberta",
        "RobertaForTokenClassification",
        "RobertaConfig",
        vocab_size=40,
        max_position_embeddings=22,
        type_vocab_size=1,
        **SMALL,
    )
    source = bench.load(hf=str(folder))
    assert [s.name for s in source.signature.inputs] == ["input_ids", "attention_mask"]
    assert open_model(source.path).record.dims == {"sequence": (1, 20)}


def test_a_task_that_the_weights_were_not_made_for(bench, bert):
    with pytest.raises(OptimizerError, match=r"no weights for classifier\.bias, classifier\.weight"):
        bench.load(hf=str(bert), task="text-classification")
    with pytest.raises(OptimizerError, match=r"unknown task 'text-clasification'(.|\n)*text-classification"):
        bench.load(hf=str(bert), task="text-clasification")


def test_directories_that_are_no_models(bench, bert, tmp_path):
    with pytest.raises(OptimizerError, match="no task is known"):
        bench.load(hf=str(tmp_path))
    (bert / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(OptimizerError, match="transformers cannot load it"):
        bench.load(hf=str(bert))


def test_loading_says_nothing_on_the_screen(bench, bert, capfd):
    bench.load(hf=str(bert))
    assert capfd.readouterr() == ("", "")


def test_neither_does_importing_the_class_that_the_config_names(t5):
    command = [sys.executable, "-c", "from optimizer.cli import main; raise SystemExit(main())", "inspect", str(t5)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "" and "T5EncoderModel" in done.stdout


@pytest.mark.parametrize("task", [None, "feature-extraction", "sentence-similarity"])
def test_an_encoder_saved_alone_is_loaded_as_such(bench, t5, task):
    source = bench.load(hf=str(t5), task=task)
    assert [s.name for s in source.signature.inputs] == ["input_ids", "attention_mask"]
    pooled = task == "sentence-similarity"
    assert str(source.signature.outputs[0]) == ("float32[batch,16]" if pooled else "float32[batch,sequence,16]")
    feeds = synthetic_feeds(source.signature, {"batch": 2, "sequence": 6}, 0)
    found = next(iter(open_model(source.path)(feeds).values()))
    given = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with torch.no_grad():
        tokens = transformers.T5EncoderModel.from_pretrained(t5).eval()(**given).last_hidden_state.numpy()
    if pooled:
        mask = feeds["attention_mask"][..., None]
        tokens = (tokens * mask).sum(1) / mask.sum(1)
        tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    np.testing.assert_allclose(found, tokens, rtol=1e-4, atol=1e-6)


def test_a_language_model_still_gives_its_hidden_states(bench, tmp_path):
    folder = saved(tmp_path / "gpt", "GPT2LMHeadModel", "GPT2Config", n_embd=16, n_layer=1, n_head=2, vocab_size=40)
    assert str(bench.load(hf=str(folder)).signature.outputs[0]) == "float32[batch,sequence,16]"
