"""The files beside a tokenizer.json: each variant has the ids that transformers' AutoTokenizer has, or is refused by name."""
import json
import shutil
import subprocess
import sys

import pytest
from harness import BIN, MODELS, PATIENCE, ROOT, Broker

sys.path.insert(0, str(ROOT / "tests/text"))
import side_files  # noqa: E402

CASES = json.loads((ROOT / "tests/vectors/text/side_files.json").read_text())["cases"]
# Variants that are refused, and a word of the reason: the files contradict each other, or ask for what is not built.
REFUSED = {
    **dict.fromkeys(["split", "split-extra"], "split_special_tokens"), "dropout": "model.dropout",
    "specific-list": "model_specific_special_tokens", "untyped-bos": "bos_token", "add-special-off": "add_special_tokens",
    **dict.fromkeys(["addl-string", "untyped-list", "untyped-stm-list"], "additional_special_tokens"),
    "addl-obj": "model_specific_special_tokens", "stm-extra-special": "extra_special_tokens[0].special", "dec-list": "added_tokens_decoder",
    **dict.fromkeys(["no-eot", "no-eot-named", "in-vocab-not-added", "in-vocab-named", "tj-twice-id"],
                    "transformers gives it")}
CLASS_OF_QWEN = {
    **REFUSED, **dict.fromkeys(["prefix", "prefix-tj"], "add_prefix_space"), "no-nfc": "normalizer", "digits3": "pre_tokenizer",
    "ignore": "ignore_merges",
    **dict.fromkeys(["decoder", "decoder-far", "decoder-order", "decoder-flags", "decoder-plain", "all-new", "stm-dec",
                     "no-extra-dec", "dec-extra-plain"], "found it missing")}
CLASS_OF_LLAMA = {**REFUSED, "no-mid-dec": "transformers gives it"}
BY_TYPE = {
    "qwen2": {**CLASS_OF_QWEN, **{name: "normalizer" for name in side_files.VARIANTS if name.startswith("spm")},
              "spm-llama-prefix-on": "add_prefix_space"},
    "qwen3": {**CLASS_OF_QWEN, **dict.fromkeys(["spm-none", "spm-empty", "spm-metaspace"], "normalizer"),
              "spm-llama-lost": "found it missing"},
    "llama": {**CLASS_OF_LLAMA, "spm-llama-lost": "found it missing"},
    "mistral": CLASS_OF_LLAMA,
}


def tokenize(model, directory):
    rows = directory / "texts.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in side_files.TEXTS))
    return subprocess.run([BIN / "assay", "tokenize", "--model", model, "--jsonl", rows], capture_output=True, text=True,
                          timeout=60 * PATIENCE)


@pytest.mark.parametrize("model_type", side_files.TYPES)
def test_ids_are_those_of_transformers(directory, model_type):
    refused = BY_TYPE[model_type]
    for name, variant in side_files.VARIANTS.items():
        model = directory / name
        side_files.write(model, variant, model_type)
        done = tokenize(model, directory)
        if name in refused:
            assert done.returncode == 78 and refused[name] in done.stderr, (name, done.stderr)
            continue
        assert done.returncode == 0, (name, done.stderr)
        assert [json.loads(line)["ids"] for line in done.stdout.splitlines()] == CASES[f"{model_type}/{name}"], name


@pytest.mark.parametrize("settings,word", [
    ({"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}}, "auto_map"), ({"fast_tokenizer_files": ["tokenizer.4.json"]}, "fast_"),
    ({"tokenizer_class": "GPT2Tokenizer"}, "found 'GPT2Tokenizer'"), ({"pad_token": 5}, "pad_token"),
    ({"extra_special_tokens": [5]}, "extra_special_tokens"), ({"extra_special_tokens": "x"}, "extra_special_tokens"),
    ({"added_tokens_decoder": {"x": {"content": "y"}}}, "found 'x'"), ({"added_tokens_decoder": {"299": "y"}}, "found '299'"), ([], "an object")])
def test_bad_settings_are_refused_by_name(directory, settings, word):
    side_files.write(directory / "m", {"tc": settings}, "llama")
    done = tokenize(directory / "m", directory)
    assert done.returncode == 78 and "tokenizer_config.json" in done.stderr and word in done.stderr


@pytest.mark.parametrize("files", [{"tokenizer_config.json": {"extra_special_tokens": ["<extra_0>"]}},
                                   {"tokenizer_config.json": {}, "added_tokens.json": {"<extra_0>": 298}}])
def test_a_step_token_that_only_a_side_file_names(directory, files):
    model = directory / "m"
    shutil.copytree(MODELS / "demo-process", model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] != "<extra_0>"]
    template = json.loads((model / "tokenizer_config.json").read_text())["chat_template"]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name, content in files.items():
        (model / name).write_text(json.dumps({**content, **({"chat_template": template} if "config" in name else {})}))
    row, scores = {"prompt": "What is 3 + 4?", "steps": ["3 + 4 = 7", "The answer is 7."]}, []
    for k, directory_of_model in enumerate([MODELS / "demo-process", model]):
        with Broker(directory / str(k), model=directory_of_model) as b, b.client() as client:
            scores.append(client.call("score", rows=[row])["rows"][0])
            assert client.call("hello")["model"]["pooling"]["step_token"] == 298
    assert scores[0] == scores[1] and len(scores[0]["steps"]) == 2


def test_a_tokenizer_model_alone(directory):
    (directory / "tokenizer.model").write_bytes(b"")
    done = tokenize(directory, directory)
    assert done.returncode == 78 and "a tokenizer.model and no tokenizer.json" in done.stderr and "save_pretrained" in done.stderr


@pytest.mark.parametrize("value", [True, False])
def test_a_pattern_that_transformers_replaces(directory, value):
    """fix_mistral_regex: for some checkpoints transformers then has another pattern than tokenizer.json."""
    model = shutil.copytree(MODELS / "demo-reward", directory / "m")
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fix_mistral_regex": value}))
    done = tokenize(model, directory)
    assert (done.returncode == 0) == (not value) and (not value or "fix_mistral_regex" in done.stderr), done.stderr
