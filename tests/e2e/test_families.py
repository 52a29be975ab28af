"""Every architecture of the README's table with what does not belong to it: tensors of trunk and head that are missing, misshapen or
of another head, labels that do not fit, two heads, tokens beyond the vocabulary. Each is refused by file, tensor or field, with what
was expected and what was found."""
import json
import re
import shutil

import pytest
from harness import MODELS, ROOT, Broker, ids_bytes, vectors
from test_checkpoints import describe, read, without_tensor, write
from test_heads import add_tensor, copy_model

# One checkpoint for each architecture and, of language models, each kind of head.
FAMILIES = ["reward", "process", "seqcls", "qwen3", "llama", "mistral", "token", "qwen3-token", "llama-token", "mistral-token", "inform",
            "prm", "recipe-eurus", "openrlhf", "openrlhf-raw", "lm-difference", "lm-softmax", "lm-sigmoid", "lm-raw", "value-head"]
TRUNK = "model.layers.1.self_attn.k_proj.weight"
HEADS = {"score.weight": 1, "score.0.bias": 0, "v_head.summary.weight": 1, "value_head.weight": 1, "classifier.weight": 1}


def options(name):
    head = vectors().get(name, {}).get("head")
    return ["--head", head] if head else []


def config_of(name):
    return json.loads((MODELS / name / "config.json").read_text())


def files(name):
    """Which file holds a tensor; the tensors of the trunk that is tried, and of the head."""
    places = {tensor: (file.name, entry) for file in sorted((MODELS / name).glob("*.safetensors")) for tensor, entry in read(file)[0].items()}
    spare = "lm_head." if not options(name) else "-"
    return {tensor: place for tensor, place in places.items()
            if tensor == TRUNK or not tensor.startswith(("model.", "__metadata__", spare))}


def refused(name, model, *words):
    code, said = describe(model, *options(name))
    assert code == 78 and all(word in said for word in words), (words, said)


def test_every_architecture_is_here():
    table = re.findall(r'^    \{"(\w+)", (?:&\w+|NULL), &\w+\},$', (ROOT / "worker/architectures.c").read_text(), re.M)
    here = {config_of(name)["architectures"][0] for name in FAMILIES}
    assert len(table) > 15 and set(table) - here == {"LLMForSequenceRegression"}, (table, here)  # RewardModel's older name
    words = (ROOT / "README.md").read_text()
    assert not [name for name in table if name.replace("LLMForSequenceRegression", "RewardModel").removeprefix("Qwen2")
                .removeprefix("Qwen3").removeprefix("Llama").removeprefix("Mistral") not in words]


@pytest.mark.parametrize("name", FAMILIES)
def test_tensors_that_are_missing(directory, name):
    tried = files(name)
    assert len(tried) > 1 or name == "lm-softmax"  # whose head is the embedding
    for k, (tensor, (file, entry)) in enumerate(tried.items()):
        model = copy_model(directory / str(k), name)
        write(model / file, *without_tensor(*read(model / file), tensor))
        where = f"/{name}" if name == "value-head" and tensor == TRUNK else f"/{file}"  # there are two files
        refused(name, model, f"{where}: tensor '{tensor.removeprefix('model.')}': expected shape {entry['shape']}, found missing",
                "" if tensor == TRUNK or name.startswith("lm-") else "without the head that its architecture names")


@pytest.mark.parametrize("name", FAMILIES)
def test_tensors_of_another_shape(directory, name):
    model = copy_model(directory, name)
    for tensor, (file, entry) in files(name).items():
        header, body = read(model / file)
        shape = [*entry["shape"][::-1], 1] if len(entry["shape"]) == 1 else entry["shape"][::-1]
        if shape == entry["shape"]:
            shape = [shape[0] * shape[1]]
        write(model / file, {**header, tensor: {**entry, "shape": shape}}, body)
        refused(name, model, f"/{file}: tensor '{tensor}': shape: expected {entry['shape']}, found {shape}")
        write(model / file, header, body)


@pytest.mark.parametrize("name", FAMILIES)
def test_tensors_of_another_head(directory, name):
    config, own = config_of(name), files(name)
    model = copy_model(directory, name)
    header, body = read(model / "model.safetensors")
    for tensor, rows in HEADS.items():
        if tensor in own:
            continue
        add_tensor(model / "model.safetensors", tensor, [rows, config["hidden_size"]] if rows else [config["hidden_size"]])
        refused(name, model, f"/model.safetensors: tensor '{tensor}': unknown for {config['architectures'][0]}: another head; expected its own")
        write(model / "model.safetensors", header, body)
    add_tensor(model / "model.safetensors", "model.layers.1.mlp.extra_proj.weight", [4, 4])
    refused(name, model, f"'model.layers.1.mlp.extra_proj.weight': unknown for {config['architectures'][0]} with 2 layers")


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "value-head"])
def test_a_value_head_beside_another(directory, name):
    model = copy_model(directory, name)
    shutil.copy(MODELS / "value-head/value_head.safetensors", model)
    refused(name, model, "/value_head.safetensors: a head beside the one", "expected one of them")


@pytest.mark.parametrize("name", ["seqcls", "qwen3", "llama", "mistral", "token", "qwen3-token", "llama-token", "mistral-token", "inform"])
def test_labels_that_do_not_fit(directory, name):
    labels = {str(k): f"L{k}" for k in range(7)}
    model = copy_model(directory, name, id2label=labels, num_labels=None, label2id=None)
    refused(name, model, "/model.safetensors: tensor 'score.", "shape: expected [7", "num_labels or id2label says how many labels")


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_beyond_the_vocabulary(directory, name):
    size, model = config_of(name)["vocab_size"], MODELS / name
    with Broker(directory / "d", model=model, options=options(name)) as broker, broker.client() as client:
        rows = [{"ids": ids_bytes([1, size, 2])}, {"ids": ids_bytes([size - 1]), "pool": {"type": "LAST"}}, {"ids": ids_bytes([-1])},
                {"ids": ids_bytes([1, 2]), "pool": {"type": "STEP", "step_token": size}}]
        found = client.call("score", rows=rows)["rows"]
    assert [row["error"] and row["error"]["code"] for row in found] == ["bad_token", None, "bad_token", "no_step_token"], found
    assert f"token 1: expected an id from 0 to {size - 1}, found {size}" in found[0]["error"]["message"], found
    if options(name):
        option = options(name)[1]
        beyond = re.sub(r"\d+(?=:)", str(size), option)
        code, said = describe(model, "--head", beyond)
        assert code == 78 and f"--head {beyond}: expected tokens below vocab_size ({size}), found {size}" in said, said


def test_the_older_name_of_openrlhf(directory):
    model = copy_model(directory, "openrlhf", architectures=["LLMForSequenceRegression"], value_head_prefix=None)
    add_tensor(model / "model.safetensors", "score.weight", [1, 32])
    refused("openrlhf", model, "'score.weight': unknown for LLMForSequenceRegression: another head; expected its own, 'value_head', alone")


def test_a_tensor_that_no_shard_has(directory):
    model = copy_model(directory, "sharded")
    index = json.loads((model / "model.safetensors.index.json").read_text())
    file = model / index["weight_map"].pop(TRUNK)
    write(file, *without_tensor(*read(file), TRUNK))
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused("sharded", model, f"{model}: tensor 'layers.1.self_attn.k_proj.weight': expected shape [32, 64], found missing")
