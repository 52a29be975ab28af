"""Heads: --head for language models, value heads of other libraries, and what of them is refused by name. The scores themselves
are compared with the reference's in tests/unit/test_model.c and test_golden.py."""
import json
import shutil
import subprocess

import pytest
from harness import BIN, MODELS, PATIENCE, Broker, ids_bytes, vectors
from test_checkpoints import describe, read, write
from test_golden import values

SOFTMAX = "lm:101,17:softmax"


def copy_model(directory, name, **changes):
    """A copy, with keys of config.json changed; None takes a key out."""
    shutil.copytree(MODELS / name, directory / name)
    config = json.loads((directory / name / "config.json").read_text())
    config = {key: value for key, value in {**config, **changes}.items() if value is not None}
    (directory / name / "config.json").write_text(json.dumps(config))
    return directory / name


def add_tensor(path, name, shape, value=b"\0\0\x80\x3f"):
    header, body = read(path)
    n = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + n]}
    write(path, header, body + value * (n // 4))


def refused(model, *words, options=()):
    code, said = describe(model, *options)
    assert code == 78 and all(word in said for word in words), said


@pytest.mark.parametrize("name", ["lm-difference", "lm-softmax", "lm-sigmoid", "lm-raw"])
def test_a_language_model_must_be_told_its_head(name):
    refused(MODELS / name, "ForCausalLM is a language model", "--head lm:ID,ID:softmax")


@pytest.mark.parametrize("option", [
    "lm", "lm:", "lm:5", "lm:5:", "lm:5:softmax", "lm:5:difference", "lm:5,6:sigmoid", "lm:5,5:softmax", "lm:5,6,7:raw", "lm:-1:raw",
    "lm: 5:raw", "lm:5,:raw", "lm:5:RAW", "lm:99999999999:raw", "yes,no", ""])
def test_heads_that_are_none(option):
    refused(MODELS / "lm-softmax", "--head: expected auto, or of a language model", f"found '{option}'", options=["--head", option])


def test_tokens_beyond_the_vocabulary():
    assert describe(MODELS / "lm-softmax", "--head", "lm:0,127:softmax")[0] == 0
    refused(MODELS / "lm-softmax", "lm:0,128:softmax: expected tokens below vocab_size (128), found 128",
            options=["--head", "lm:0,128:softmax"])


@pytest.mark.parametrize("name", ["seqcls", "reward", "prm", "openrlhf", "inform"])
def test_an_option_beside_a_head_of_its_own(name):
    refused(MODELS / name, f"--head {SOFTMAX}", "has a head of its own", options=["--head", SOFTMAX])


def test_the_head_is_part_of_the_mode_and_of_a_score(directory):
    model, rows, found = MODELS / "lm-softmax", directory / "rows.jsonl", {}
    rows.write_text(json.dumps({"input_ids": [3, 5, 7, 11]}) + "\n")
    for option, end in (("lm:101,17:softmax", None), ("lm:101,17:difference", None), ("lm:17,101:softmax", None)):
        out = directory / "scores.jsonl"  # the same file: another option begins anew
        done = subprocess.run([BIN / "assay", "score", rows, "-o", out, "--model", model, "--head", option], capture_output=True,
                              text=True, timeout=60 * PATIENCE)
        assert done.returncode == 0, done.stderr
        found[option] = json.loads(out.read_text())["score"]
    first, other = found["lm:101,17:softmax"], found["lm:17,101:softmax"]
    assert 0 < first < 1 and abs(first + other - 1) < 1e-6 and abs(found["lm:101,17:difference"]) > 1e-3
    with Broker(directory / "d", model=model, options=["--head", SOFTMAX]) as broker, broker.client() as client:
        hello = client.call("hello")
        assert hello["mode"].endswith(f" head={SOFTMAX}") and hello["model"]["architecture"] == "Qwen3ForCausalLM"
        assert hello["model"]["pooling"]["activation"] == "sigmoid" and hello["model"]["n_labels"] == 1
        assert abs(client.call("score", rows=[{"ids": ids_bytes([3, 5, 7, 11])}])["rows"][0]["score"] - first) < 1e-7


@pytest.mark.parametrize("option, value", [("head", SOFTMAX), ("dtype", "bf16"), ("quant", "int8"), ("weights", "single"), ("tp", "2"),
                                           ("max-len", "8"), ("chat-template", "chatml"), ("template-date", "2026-01-02"), ("device", "cpu"),
                                           ("devices", "0"), ("threads", "1"), ("worker", "w"), ("score-cache", "1G"), ("kv-cache", "1G"),
                                           ("max-batch-tokens", "9"), ("no-dedupe", None), ("keep-data", None)])
def test_what_is_a_private_broker_s_is_not_ignored_by_a_running_one(directory, option, value):
    (directory / "rows.jsonl").write_text('{"input_ids": [1]}\n')
    done = subprocess.run([BIN / "assay", "score", directory / "rows.jsonl", f"--{option}", *([value] if value else []), "--data",
                           directory],
                          capture_output=True, text=True, timeout=30 * PATIENCE)
    assert done.returncode == 64 and f"--{option}: expected --model DIR with it" in done.stderr, done.stderr


def test_a_tied_head_that_is_in_the_file_too(directory):
    model = copy_model(directory, "lm-softmax")
    header, body = read(model / "model.safetensors")
    begin, end = header["model.embed_tokens.weight"]["data_offsets"]
    same = {**header["model.embed_tokens.weight"], "data_offsets": [len(body), len(body) + end - begin]}
    write(model / "model.safetensors", {**header, "lm_head.weight": same}, body + body[begin:end])
    assert describe(model, "--head", SOFTMAX)[0] == 0
    write(model / "model.safetensors", {**header, "lm_head.weight": same}, body + body[begin:end][::-1])
    refused(model, "lm_head.weight", "contradicts tie_word_embeddings", options=["--head", SOFTMAX])


def test_a_language_model_without_its_head(directory):
    refused(copy_model(directory, "lm-softmax", tie_word_embeddings=False), "'lm_head.weight': expected shape [128, 32], found missing",
            options=["--head", SOFTMAX])


def test_two_heads(directory):
    model = copy_model(directory, "seqcls")
    shutil.copy(MODELS / "value-head/value_head.safetensors", model)
    refused(model, "value_head.safetensors", "Qwen2ForSequenceClassification", "expected one of them")
    refused(MODELS / "value-head", "value_head.safetensors", "--head lm:1:raw", options=["--head", "lm:1:raw"])
    model = copy_model(directory, "openrlhf")
    add_tensor(model / "model.safetensors", "score.weight", [1, 32])
    refused(model, "model.safetensors", "'score.weight': unknown for RewardModel")
    model = copy_model(directory, "prm")
    add_tensor(model / "model.safetensors", "score.weight", [1, 32])
    refused(model, "'score.weight': unknown for Qwen2ForPrmModel")


def test_value_heads_that_do_not_fit(directory):
    model = copy_model(directory, "value-head")
    one = {"v_head.summary.weight": {"dtype": "F32", "shape": [1, 32], "data_offsets": [0, 128]}}
    both = {"v_head.summary.weight": {"dtype": "F32", "shape": [32, 1], "data_offsets": [0, 128]},
            "v_head.summary.bias": {"dtype": "F32", "shape": [1], "data_offsets": [128, 132]}}
    write(model / "value_head.safetensors", one, b"\0" * 128)
    refused(model, "'v_head.summary.bias': expected shape [1], found missing", "without the head")
    write(model / "value_head.safetensors", both, b"\0" * 132)
    refused(model, "value_head.safetensors", "expected [1, 32], found [32, 1]")
    (model / "value_head.safetensors").rename(model / "value_head.bin")
    refused(model, "value_head.bin: PyTorch's format", "safetensors.torch.save_file")


@pytest.mark.parametrize("changes, words", [
    ({"std": None}, ["std: expected a number beside mean"]), ({"mean": None}, ["mean: expected a number beside std"]),
    ({"normalize_reward": None}, ["normalize_reward: expected true or false beside mean and std"]), ({"std": 0}, ["std"]),
    ({"mean": [0.5]}, ["mean"]), ({"value_head_prefix": "score"}, ["'value_head.weight': unknown for RewardModel"]),
    ({"value_head_prefix": ""}, ["value_head_prefix: expected 1 to"]), ({"value_head_prefix": 5}, ["value_head_prefix"]),
    ({"model_type": "gemma2"}, ["model_type: expected qwen2, qwen3, llama or mistral for RewardModel, found 'gemma2'"]),
    ({"model_type": None}, ["model_type"])], ids=str)
def test_what_openrlhf_s_config_must_say(directory, changes, words):
    refused(copy_model(directory, "openrlhf", **changes), "config.json" if "prefix" not in str(changes) else "", *words)


def test_openrlhf_without_statistics_is_not_normalized(directory):
    ids = vectors()["openrlhf"]["rows"][0]["ids"]
    normal = vectors()["openrlhf"]["rows"][0]["values"][0]
    found = {}
    for name, changes in (("off", {"normalize_reward": False}), ("none", {"mean": None, "std": None, "normalize_reward": None}),
                          ("on", {}), ("old", {"architectures": ["LLMForSequenceRegression"], "value_head_prefix": None})):
        with Broker(directory / name / "d", model=copy_model(directory / name, "openrlhf", **changes)) as broker:
            with broker.client() as client:
                found[name] = client.call("score", rows=[{"ids": ids_bytes(ids)}])["rows"][0]["score"]
    assert abs(found["on"] - normal) < 1e-4 and abs(found["off"] - (1.6 * normal - 0.7)) < 1e-4
    assert found["none"] == found["off"] and found["old"] == found["on"]


def test_normalizing_that_a_class_does_not_do(directory):
    refused(copy_model(directory, "seqcls", normalize_reward=True), "normalize_reward: Qwen2ForSequenceClassification does not")


@pytest.mark.parametrize("name, key", [("seqcls", "AutoModelForSequenceClassification"), ("mistral-token", "AutoModelForTokenClassification"),
                                       ("lm-raw", "AutoModelForCausalLM")])
def test_the_publisher_s_own_code(directory, name, key):
    """For a class that transformers has it is one of two readings; for one that it lacks it is the one that is built here."""
    option = ["--head", "lm:0:raw"] if name == "lm-raw" else []
    refused(copy_model(directory, name, auto_map={key: "modeling_own.Model"}), f'auto_map.{key}: expected nothing, found "modeling_own.Model"',
            "take the key out", options=option)
    for foreign in ("reward", "process", "inform", "prm", "openrlhf"):
        assert describe(copy_model(directory, foreign, auto_map={key: "modeling_own.Model"}))[0] == 0


@pytest.mark.parametrize("name, words", [
    ("LlamaForRewardModelWithGating", "gating head"), ("Gemma2ForSequenceClassification", "other norms"),
    ("InternLM2ForRewardModel", "expected ForSequenceClassification"), ("Olmo2ForCausalLM", "not built"),
    ("Phi3ForSequenceClassification", "not built"), ("Qwen3MoeForSequenceClassification", "mixture of experts"),
    ("MixtralForCausalLM", "mixture of experts"), ("Qwen3_5ForCausalLM", "linear attention"),
    ("Qwen2_5_VLForConditionalGeneration", "images"), ("Qwen3NextForCausalLM", "linear attention"), ("Gemma3ForCausalLM", "other norms"),
    ("Qwen3_5MoeForCausalLM", "mixture of experts"), ("AtheneForSequenceClassification", "expected ForSequenceClassification"),
    ("DebertaV2ForSequenceClassification", "expected ForSequenceClassification"), ("GPT2ForSequenceClassification", "not built")])
def test_architectures_that_are_not_built(directory, name, words):
    refused(copy_model(directory, "seqcls", architectures=[name]), "config.json: architectures", f"'{name}' is not built", words)


def test_what_bitsandbytes_saved(directory):
    refused(copy_model(directory, "seqcls", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
            "quantization_config", "'bitsandbytes'", "model.dequantize(), then save_pretrained")


def test_inform_pools_the_token_before_the_first_pad_token(directory):
    """As the class computes it: (index of the first pad token or 0) - 1, modulo the row's length."""
    pad = 9
    rows = [[5, 6, 7], [5, 6, 9], [5, 9, 7, 9, 9], [9, 5, 6], [9, 9], [5, 9, 6], [9]]
    expected = [([k for k, token in enumerate(ids) if token == pad] or [0])[0] - 1 for ids in rows]
    expected = [at % len(ids) for at, ids in zip(expected, rows)]
    with Broker(directory / "d", model=copy_model(directory, "inform", pad_token_id=pad)) as broker, broker.client() as client:
        found = client.call("score", rows=[{"ids": ids_bytes(ids)} for ids in rows])["rows"]
        at = [{"ids": ids_bytes(ids), "pool": {"type": "POSITIONS", "positions": [k]}} for ids, k in zip(rows, expected)]
        there = client.call("score", rows=at)["rows"]
    assert [row["pooled_at"][0]["i"] for row in found] == expected
    assert [row["score"] for row in found] == [values(row)[0] for row in there]


def test_an_index_that_names_the_value_head_too(directory):
    """As where one program wrote both: it is read once."""
    model = copy_model(directory, "value-head")
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    places = {name: file for file in ("model-00001-of-00001.safetensors", "value_head.safetensors")
              for name in read(model / file)[0] if name != "__metadata__"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    code, said = describe(model)
    assert code == 0, said
