"""LAST where the checkpoint has a pad token: transformers' sequence classification pools the last token that is not pad_token_id,
in a row of its own too. EXPECTED are the logits of AutoModelForSequenceClassification (transformers 5.23, float32, CPU), each row in
a batch of one, of the checkpoints that are made here."""
import json
import shutil
import struct
import subprocess

import pytest
from harness import BIN, MODELS, Broker, ids_bytes

PAD = 9
ROWS = [[5, 6, 7], [5, 6, 7, 9], [5, 9, 7, 9, 9], [9, 9, 9], [9, 5], [9, 9, 5, 9]]
POSITIONS = [2, 2, 2, 0, 1, 2]
EXPECTED = {
    "llama": [0.344719, 0.344719, 0.416945, -0.282868, 1.086268, 0.853056],
    "qwen3": [2.131464, 2.131464, 0.452728, -0.715794, -0.272554, -0.56189],
    "seqcls": [1.142266, 1.142266, 1.270504, 0.884737, 0.92409, 0.897845],
}
LAST_TOKEN = {  # the same with pad_token_id null
    "llama": [0.344719, 0.93628, 1.166131, -0.282869, 1.086268, 0.986283],
    "qwen3": [2.131464, 1.360803, 0.657054, -0.715794, -0.272554, -0.479754],
    "seqcls": [1.142266, 0.470088, 1.721135, 0.884736, 0.92409, 1.375361],
}


def copy_model(name, directory, **changes):
    model = directory / f"{name}-model"
    shutil.copytree(MODELS / name, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **changes}))
    return model


def score(broker, rows, **fields):
    with broker.client() as client:
        return client.call("score", rows=[{"ids": ids_bytes(ids), **fields} for ids in rows])["rows"]


def pooling(broker):
    with broker.client() as client:
        hello = client.call("hello")
    return hello["model"]["pooling"], hello["mode"]


def positions(results):
    return [r["pooled_at"][0]["i"] for r in results]


@pytest.mark.parametrize("name", EXPECTED)
def test_sequence_classification_passes_over_pad_tokens(directory, name):
    with Broker(directory, model=copy_model(name, directory, pad_token_id=PAD)) as b:
        plain, last, said = score(b, ROWS), score(b, ROWS, hf_pad_rule=False), score(b, ROWS, hf_pad_rule=True)
        default, mode = pooling(b)
    assert [r["score"] for r in plain] == pytest.approx(EXPECTED[name], abs=1e-4)
    assert [r["score"] for r in last] == pytest.approx(LAST_TOKEN[name], abs=1e-4)
    assert [r["score"] for r in said] == [r["score"] for r in plain]
    assert positions(plain) == POSITIONS and positions(last) == [len(ids) - 1 for ids in ROWS]
    assert (default["hf_pad_rule"], default["pad_token"]) == (True, PAD) and mode.endswith(" pad_rule=on")


def test_without_a_pad_token_last_is_the_last(directory):
    with Broker(directory, model=copy_model("llama", directory)) as b:
        results, (default, mode) = score(b, ROWS, hf_pad_rule=True), pooling(b)
    assert [r["score"] for r in results] == pytest.approx(LAST_TOKEN["llama"], abs=1e-4)
    assert (default["hf_pad_rule"], default["pad_token"]) == (False, None) and "pad_rule" not in mode


def test_reward_models_take_the_last_token(directory):
    """Their class is Qwen's own, which transformers does not have."""
    with Broker(directory, model=copy_model("reward", directory, pad_token_id=PAD)) as b:
        results, (default, mode) = score(b, ROWS), pooling(b)
    assert positions(results) == [len(ids) - 1 for ids in ROWS]
    assert (default["hf_pad_rule"], default["pad_token"]) == (False, PAD) and "pad_rule" not in mode


def test_a_job_is_not_finished_under_another_rule(directory):
    model = copy_model("llama", directory, pad_token_id=PAD)
    with Broker(directory, model=model, options=["--hf-pad-rule", "off"]) as b:
        with b.client() as client:
            client.call("submit", key="half", chunk=0, rows=[{"ids": ids_bytes(ROWS[1])}])
            while client.call("status", job="half")["done"] < 1:
                pass
    with Broker(directory, model=model) as b, b.client() as client:
        status = client.call("status", job="half")
        assert status["state"] == "paused" and "pad_rule=on" in status["reason"]
        client.call("resume", job="half", accept_mode=True)
        client.call("submit", key="half", chunk=1, rows=[{"ids": ids_bytes(ROWS[1])}], seal=True)
        results = sorted(client.results("half"), key=lambda r: r["i"])
    assert positions(results) == [3, 2]


# ---- text whose template ends with the pad token ----

TOKENS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
EOT = 298
THEIRS, LAST_OF_ALL = 1.018029, 0.152954  # of the template's text; of 298 as pad_token_id, and of null
TALK = {"prompt": "What is 37 + 48 - 12?", "response": "73"}


def llama_like(directory):
    """demo-reward's layers and tokenizer as sequence classification whose pad token is what Llama 3's template ends with."""
    model = copy_model("demo-reward", directory, architectures=["Qwen2ForSequenceClassification"], pad_token_id=EOT)
    data = (model / "model.safetensors").read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8:8 + size]), data[8 + size:]
    rows = header["score.0.weight"]
    begin = rows["data_offsets"][0]
    head = body[begin:begin + 2 * rows["shape"][1]]  # one row of bfloat16
    kept = {k: v for k, v in header.items() if not k.startswith("score.") and k != "__metadata__"}
    out, new = b"", {}
    for name, about in sorted(kept.items(), key=lambda item: item[1]["data_offsets"]):
        part = body[slice(*about["data_offsets"])]
        new[name] = {**about, "data_offsets": [len(out), len(out) + len(part)]}
        out += part
    new["score.weight"] = {"dtype": rows["dtype"], "shape": [1, rows["shape"][1]], "data_offsets": [len(out), len(out) + len(head)]}
    text = json.dumps(new).encode()
    text += b" " * (-len(text) % 8)
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + out + head)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    for token, content in zip(tokenizer["added_tokens"], TOKENS):
        token["content"] = content
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    (model / "tokenizer_config.json").unlink()
    return model


def test_a_template_that_ends_with_the_pad_token(directory):
    model = llama_like(directory)
    with Broker(directory, model=model, options=["--chat-template", "llama3"]) as b:
        with b.client() as client:
            theirs, last = client.call("score", rows=[TALK, {**TALK, "hf_pad_rule": False}])["rows"]
        said = b.words()
    assert theirs["score"] == pytest.approx(THEIRS, abs=1e-4) and last["score"] == pytest.approx(LAST_OF_ALL, abs=1e-4)
    assert theirs["pooled_at"][0]["i"] == last["pooled_at"][0]["i"] - 1 and last["pooled_at"][0]["id"] == EOT
    assert "pad_token_ends_texts token=298" in said and "conversations" in said and "--hf-pad-rule off" in said
    (directory / "rows.jsonl").write_text(json.dumps(TALK) + "\n")
    for option, expected in (("off", last), ("on", theirs), (None, theirs)):
        done = subprocess.run([BIN / "assay", "score", directory / "rows.jsonl", "--model", model, "--chat-template", "llama3",
                               "--data", directory / f"cli-{option}", *(["--hf-pad-rule", option] if option else [])],
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["score"] == pytest.approx(expected["score"], rel=1e-6)
