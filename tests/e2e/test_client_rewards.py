"""The Python client's texts, and its reward functions as their frameworks load and call them."""
import json
import threading

import pytest
from client_harness import endpoint, kind, load_by_path, served, short_polls  # noqa: F401
from harness import MODELS, Broker, changed_model, framed_model
from test_models import serve
from test_pad_rule import llama_like
from assay import AssayError, Client
from assay.trl_reward import assay_reward, make_reward

SHAPES = [{"text": "What is 3 + 4?"},
          {"messages": [{"role": "user", "content": "3 + 4?"}, {"role": "assistant", "content": "7"}]},
          {"prompt": "What is 3 + 4?", "response": "7"}, {"prompt": [{"role": "user", "content": "3 + 4?"}], "completion": "7"},
          {"prompt": "What is 3 + 4?", "responses": ["7", "8", "9"]},
          {"prompt": "What is 3 + 4?", "chosen": "7", "rejected": "8"},
          {"text": "not text: \ud800"}]


def test_every_shape_of_text(served, kind):
    """As plain wire rows they give the same."""
    results = kind(served.endpoint).score(SHAPES)
    with served.client() as plain:
        assert results[:6] == plain.call("score", rows=SHAPES[:6])["rows"]
    assert [sorted(set(row) - {"i", "id", "n_tokens", "pooled_at", "error"}) for row in results[:6]] == [
        ["score"]] * 4 + [["advantages", "best", "margin", "mean", "ranks", "scores", "std"], ["chosen", "margin", "rejected"]]
    assert results[6]["error"]["code"] == "bad_text" and results[6]["score"] is None


def test_responses_and_pairs(served, kind):
    client = kind(served.endpoint)
    of_responses, of_pair = client.score([SHAPES[4], SHAPES[5]])
    assert client.best_of(SHAPES[4]["prompt"], SHAPES[4]["responses"]) == of_responses
    assert client.compare("7", "8", prompt=SHAPES[5]["prompt"]) == {**of_pair, "i": 0}
    assert client.best_of("3 + 4 = ?", ["7", "8"], id="x")["id"] == "x"
    with pytest.raises(AssayError) as error:
        client.best_of("3 + 4 = ?", ["7", "word " * 3 * served.model["max_len"]])
    assert error.value.code == "too_long"
    with pytest.raises(AssayError, match="recipe"):
        client.rank("3 + 4", ["7", "8"])


def test_documents(directory, kind):
    """Under a recipe that writes a query and a document."""
    with Broker(directory / "d", model=MODELS / "recipe-qwen3", options=["--recipe", "qwen3-reranker"]) as broker:
        client, documents = kind(broker.endpoint), ["Paris", "Rome is a capital.", "7"]
        found = client.rank("capital of France", documents, instruction="Find the answer.")
        rows = [{"query": "capital of France", "document": text, "instruction": "Find the answer."} for text in documents]
        assert found["scores"] == [row["score"] for row in client.score(rows)]
        assert sorted(found["ranks"]) == [1, 2, 3] and found["ranks"][found["best"]] == 1


def test_ensembles(directory, tmp_path, kind, monkeypatch):
    """Each model's own bits; a reward is their mean."""
    models = {"a": MODELS / "demo-reward", "b": changed_model(tmp_path / "b", -0.5)}
    with serve(directory, models, "ab") as broker:
        client, rows = kind(broker.endpoint), [SHAPES[2], SHAPES[1]]
        each = [client.score(rows, model=name) for name in "ab"]
        found = client.score(rows, models=["a", "b"])
        assert [row["scores"] for row in found] == [[a["score"], b["score"]] for a, b in zip(*each)]
        assert client.rewards(rows, models=("a", "b")) == [row["mean"] for row in found]
        assert client.best_of("3 + 4 = ?", ["7", "8"], models=["a", "b"])["by_model"][1]["scores"] == \
            client.best_of("3 + 4 = ?", ["7", "8"], model="b")["scores"]
        key = client.submit(rows, model="b")
        assert [row["score"] for row in sorted(client.results(key), key=lambda row: row["i"])] == [row["score"] for row in each[1]]
        ask = {"prompts": ["What is "], "completions": ["3 + 4?"]}
        apart = [make_reward(broker.endpoint, model=name)(**ask)[0] for name in "ab"]
        (mean,) = make_reward(broker.endpoint, models=["a", "b"])(**ask)
        assert mean == pytest.approx(sum(apart) / 2, rel=1e-6) and apart[0] != apart[1]


def test_trl_conversational(served, endpoint):
    """As GRPOTrainer calls it: by keyword, every other column beside, messages with more than role and content."""
    prompts = [[{"role": "user", "content": f"What is {n} + 4?"}] for n in range(6)]
    completions = [[{"role": "assistant", "content": str(n + 4), "reasoning_content": None}] for n in range(6)]
    rewards = assay_reward(prompts=prompts, completions=completions, completion_ids=[[1]] * 6, answer=["7"] * 6,
                           trainer_state=None, log_extra=print, log_metric=print)
    rows = [{"prompt": prompt, "response": completion[0]["content"]} for prompt, completion in zip(prompts, completions)]
    assert rewards == [row["score"] for row in Client(endpoint).score(rows)]
    assert all(isinstance(reward, float) for reward in rewards) and assay_reward.__name__ == "assay_reward"


def test_trl_standard(served, endpoint):
    """One text, as the trainer gives it to a reward model; a row that failed is None."""
    too_long = "word " * 3 * served.model["max_len"]
    rewards = assay_reward(prompts=["What is ", "What is "], completions=["3 + 4?", too_long], completion_ids=[[1], [2]])
    (expected,) = Client(endpoint).score([{"text": "What is 3 + 4?"}])
    assert rewards == [expected["score"], None]
    cut = make_reward(endpoint, name="helpfulness", truncate=True)
    assert cut.__name__ == "helpfulness"
    assert all(isinstance(reward, float) for reward in cut(prompts=["", ""], completions=["3 + 4?", too_long]))


def test_trl_one_bad_completion(served, endpoint, caplog):
    """None for it, as the trainer allows; the others are scored, whatever shape the columns have."""
    ask, good = [{"role": "user", "content": "3 + 4?"}], [{"role": "assistant", "content": "7"}]
    bad = [None, 7, [], ["7"], [{"role": "assistant"}], [{"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}],
           [{"role": "assistant", "content": [{"type": "text", "text": "7"}]}], [{"content": "7"}], [{"role": 7, "content": "7"}],
           [{"role": "assistant", "content": "\ud800"}], [{"role": "assistant", "content": "7", "reasoning_content": 5}]]
    rewards = assay_reward(prompts=[ask] * (len(bad) + 2), completions=[good, *bad, good], completion_ids=None, answer=[1] * 13)
    (expected,) = Client(endpoint).score([{"messages": ask + good}])
    assert rewards == [expected["score"], *[None] * len(bad), expected["score"]]
    assert "11 of 13 rows failed" in caplog.text and "expected a text" in caplog.text
    mixed = assay_reward(prompts=["3 + 4?", ask, "3 + 4?", None, "3"], completions=[good, "7", "7", "7", 7])
    assert mixed[:2] == [expected["score"]] * 2 and mixed[2] is not None and mixed[3:] == [None, None]
    assert assay_reward(prompts=[], completions=[]) == []


def test_trl_messages_go_whole(directory, monkeypatch):
    """A template that reads parts and tool calls writes them, as it does for the trainer; what cannot be sent is that row's None."""
    model = framed_model(directory / "model")
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}{{ m.name }}: {% for p in m.content or [] %}{{ p.text if p is mapping else p }}{% endfor %}"
        "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %};{% endfor %}")
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 3}}}]
    ask, answer = [{"role": "user", "content": "3 + 4?", "name": None}], {"role": "assistant", "content": None, "tool_calls": calls}
    talk = [answer, {"role": "tool", "name": "add", "content": [{"type": "text", "text": "7"}]}, {"role": "assistant", "content": "7"}]
    bad = [[{**answer, "tool_calls": [object()]}], [{**answer, "tool_calls": [1 << 70]}], [{**answer, 5: 6}], [{"role": "assistant", "content": None}]]
    with Broker(directory / "d", model=model) as broker:
        monkeypatch.setenv("ASSAY_ENDPOINT", broker.endpoint)
        text = 'user: 3 + 4?;assistant: {"name": "add", "arguments": {"a": 3}};tooladd: 7;assistant: 7;'
        (expected,) = Client().score([{"text": text, "add_special_tokens": False}])
        rewards = assay_reward(prompts=[ask] * 6, completions=[talk, *bad, talk])
    assert rewards == [expected["score"], None, None, None, None, expected["score"]] and expected["score"] is not None


def test_trl_needs_the_pad_token(directory, monkeypatch):
    """The trainer passes over the tokenizer's, whatever config.json says; so config.json must say the same."""
    ask, text = {"prompts": ["What is "], "completions": ["3 + 4?<|eot_id|>"]}, {"text": "What is 3 + 4?<|eot_id|>"}
    model = llama_like(directory)
    (model / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<|eot_id|>", "eos_token": "<|end_header_id|>"}))
    with Broker(directory / "off", model=model, options=["--hf-pad-rule", "off"]) as broker:
        monkeypatch.setenv("ASSAY_ENDPOINT", broker.endpoint)
        assert broker.model["tokenizer"] == {"bos_token": None, "eos_token": 297, "pad_token": 298}
        last, before = [row["score"] for row in Client().score([text, {**text, "hf_pad_rule": True}])]
        assert last != before and assay_reward(**ask) == [before] and make_reward(hf_pad_rule=False)(**ask) == [last]
    config = json.loads((model / "config.json").read_text())
    for n, (pad, names, expected) in enumerate([(None, {}, 298), (297, {}, 298), (298, {"pad_token": None}, 297)]):
        (model / "config.json").write_text(json.dumps({**config, "pad_token_id": pad}))
        (model / "special_tokens_map.json").write_text(json.dumps(names))
        with Broker(directory / str(n), model=model) as broker:
            monkeypatch.setenv("ASSAY_ENDPOINT", broker.endpoint)
            for reward in (assay_reward, make_reward(hf_pad_rule=True)):
                with pytest.raises(ValueError, match=f'found {str(pad).lower()}[.].*"pad_token_id": {expected} into config.json'):
                    reward(**ask)
            assert make_reward(hf_pad_rule=False)(**ask) == [last]


def test_openrlhf(served, endpoint, monkeypatch):
    """As its executor does: the file by its path, the function by position, in a thread, with lists of one."""
    module, found = load_by_path("openrlhf_reward"), {}
    queries = [f"<|im_start|>user\nWhat is {n} + 4?<|im_end|>\n<|im_start|>assistant\n{n + 4}<|im_end|>" for n in range(4)]

    def one(n):
        found[n] = module.reward_func(queries[n:n + 1], [queries[n][:10]], ["7"])

    threads = [threading.Thread(target=one, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [row["score"] for row in Client(endpoint).score([{"text": query} for query in queries])]
    assert [float(found[n]["rewards"][0]) for n in range(4)] == expected
    together = module.reward_func(queries, queries, [""] * 4)
    assert [float(reward) for reward in together["rewards"]] == [float(score) for score in together["scores"]] == expected
    assert together["extra_logs"] == {"assay_failed": 0.0}
    with pytest.raises(ValueError, match=r"\[1\]"):
        module.reward_func([queries[0], ""], ["", ""], ["", ""])
    monkeypatch.setattr(module, "FAILED_REWARD", -5.0)
    mended = module.reward_func([queries[0], ""], ["", ""], ["", ""])
    assert [float(reward) for reward in mended["rewards"]] == [expected[0], -5.0] and mended["extra_logs"]["assay_failed"] == 1.0


def test_texts_as_the_frameworks_tokenize_them(served, endpoint, directory, monkeypatch):
    """TRL's trainer (for texts) and OpenRLHF's server add no special tokens, whatever the tokenizer would put around a text."""
    text = "<|im_start|>What is 3 + 4?"
    expected, around = [row["score"] for row in Client(endpoint).score([{"text": text}, {"text": f"<|endoftext|>{text}<extra_0>"}])]
    with Broker(directory / "d", model=framed_model(directory / "model")) as framed:
        monkeypatch.setenv("ASSAY_ENDPOINT", framed.endpoint)
        assert Client().score([{"text": text}])[0]["score"] == around != expected
        assert assay_reward(prompts=["<|im_start|>What is "], completions=["3 + 4?"]) == [expected]
        rewards = load_by_path("openrlhf_reward").reward_func([text], [""], [""])["rewards"]
        assert [float(reward) for reward in rewards] == [expected]


def test_openrlhf_scores_the_last_token(served, endpoint, directory, monkeypatch):
    """As its server does, which passes over nothing that the text holds, a pad token at its end neither."""
    text = "What is 3 + 4?<|endoftext|>"
    expected = Client(endpoint).score([{"text": text}])[0]["score"]
    model = framed_model(directory / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "pad_token_id": 295}))
    with Broker(directory / "d", model=model, options=["--hf-pad-rule", "on"]) as padded:
        monkeypatch.setenv("ASSAY_ENDPOINT", padded.endpoint)
        assert Client().score([{"text": text, "add_special_tokens": False}])[0]["score"] != expected
        rewards = load_by_path("openrlhf_reward").reward_func([text], [""], [""])["rewards"]
        assert [float(reward) for reward in rewards] == [expected]


class ArrayLike:
    """A list out of a parquet file: numpy's array, as far as that matters."""

    def __init__(self, values):
        self.values = values

    def tolist(self):
        return self.values


def test_verl(served, endpoint):
    """As its reward managers do: by keyword, the configuration's own beside."""
    module = load_by_path("verl_reward")
    messages = [{"role": "user", "content": "What is 5 + 4?"}]
    prompts = ["What is 3 + 4?", messages, ArrayLike(messages)]
    extras = [{"question": prompt, "index": n, "rollout_reward_scores": {}} for n, prompt in enumerate(prompts)]
    rows = [{"prompt": prompt, "response": "9"} for prompt in (prompts[0], messages, messages)]
    expected = [row["score"] for row in Client(endpoint).score(rows)]
    one = [module.compute_score(data_source="sums", solution_str="9", ground_truth="7", extra_info=extra) for extra in extras]
    batch = module.compute_score_batch(data_sources=["sums"] * 3, solution_strs=["9"] * 3, ground_truths=["7"] * 3,
                                       extra_infos=extras)
    assert one == batch == expected and all(isinstance(score, float) for score in one)
    assert module.compute_score(data_source="s", solution_str="9", ground_truth=None, extra_info={"problem": prompts[0]},
                                prompt_key="problem") == expected[0]
    for extra in ({"index": 1}, None):
        with pytest.raises(ValueError, match="'question'"):
            module.compute_score(data_source="s", solution_str="9", ground_truth=None, extra_info=extra)
    too_long = "word " * 3 * served.model["max_len"]
    with pytest.raises(ValueError, match=r"\[0\]"):
        module.compute_score(data_source="s", solution_str=too_long, ground_truth=None, extra_info=extras[0])
    assert module.compute_score(data_source="s", solution_str=too_long, ground_truth=None, extra_info=extras[0],
                                failed_score=-1.0) == -1.0
    odd = module.compute_score_batch(["s"] * 3, ["9", None, "9"], [None] * 3, [extras[0], extras[0], {"question": 5}], failed_score=-1.0)
    assert odd == [expected[0], -1.0, -1.0]
