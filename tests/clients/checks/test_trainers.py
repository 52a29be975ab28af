"""The trainers' own classes against a real broker and assay-http: what they send is taken, and what comes back is what their own
reward model would give, or what the socket gives. `make clients-check` runs this; it needs PyTorch and the trainers."""
import asyncio
import importlib.metadata
import re
import sys
import types

import pytest
from harness import MODELS, ROOT, Broker
from http_harness import Http, float32

sys.path.insert(0, str(ROOT / "tests/clients"))
import assay  # noqa: E402

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
ASKED = [f"What is {n} + 4?" for n in range(4)]


def text_of(asked, answer):
    return f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"


@pytest.fixture(scope="module", autouse=True)
def versions():
    """What was seen is only worth something with them: pytest -s shows them."""
    for name in ("torch", "transformers", "trl", "verl", "openrlhf", "ms-swift"):
        try:
            print(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            print(name, "is not there")


@pytest.fixture
def served(directory, monkeypatch):
    with Broker(directory / "d", model=MODELS / "demo-reward") as broker:
        monkeypatch.setenv("ASSAY_ENDPOINT", broker.endpoint)
        yield broker


@pytest.fixture
def http(served, directory):
    with Http(directory, served, ["--served-model-name", str(MODELS / "demo-reward")]) as running:
        yield running


def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(MODELS / "demo-reward")


def scores_of(texts):
    return [row["score"] for row in assay.Client().score([{"text": text} for text in texts])]


# ---- TRL ----

def tiny(kind, seed, **more):
    torch.manual_seed(seed)
    config = transformers.Qwen2Config(vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                                      num_key_value_heads=2, max_position_embeddings=256, eos_token_id=297, pad_token_id=295, **more)
    model = kind(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("conversational", [True, False], ids=["messages", "texts"])
def test_trl_grpo(directory, tmp_path, conversational, monkeypatch):
    """Two steps of GRPOTrainer with two rewards: a reward model of its own, and ours of the same checkpoint. They are the same."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from assay.trl_reward import assay_reward
    judge = tiny(transformers.Qwen2ForSequenceClassification, 1, num_labels=1)
    judge.save_pretrained(directory / "judge")
    tokenizer().save_pretrained(directory / "judge")
    prompts = [[{"role": "user", "content": asked}] if conversational else asked for asked in ASKED]
    arguments = trl.GRPOConfig(output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, num_generations=2, max_completion_length=6,
                               learning_rate=1e-3, logging_steps=1, bf16=False, report_to=[], use_cpu=True, save_strategy="no", seed=3)
    with Broker(directory / "d", model=directory / "judge", options=["--dtype", "f32"]) as broker:
        monkeypatch.setenv("ASSAY_ENDPOINT", broker.endpoint)
        trainer = trl.GRPOTrainer(model=tiny(transformers.Qwen2ForCausalLM, 2), reward_funcs=[judge, assay_reward], args=arguments,
                                  train_dataset=datasets.Dataset.from_dict({"prompt": prompts}), processing_class=tokenizer(),
                                  reward_processing_classes=[tokenizer(), None])
        seen, before = [], trainer._calculate_rewards

        def watched(*all_of, **named):
            found = before(*all_of, **named)
            seen.append(found.detach().clone())
            return found

        monkeypatch.setattr(trainer, "_calculate_rewards", watched)
        trainer.train()
        scored = broker.sql("select sum(done) from jobs")
    assert trainer.state.global_step == 2 and len(seen) == 2 and scored == [(8,)]
    both = torch.cat(seen)
    assert both.shape[1] == 2 and both[:, 0].std() > 0
    torch.testing.assert_close(both[:, 1], both[:, 0], rtol=1e-4, atol=1e-4)
    assert any("rewards/assay_reward/mean" in line for line in trainer.state.log_history)


# ---- verl ----

def of_verl(answers, with_prompt=True):
    """A batch as verl's rollout leaves it."""
    from verl import DataProto
    import numpy
    from tensordict import TensorDict
    words = tokenizer()
    ids = [words(answer + "<|im_end|>", add_special_tokens=False)["input_ids"] for answer in answers]
    longest = max(map(len, ids))
    padded = torch.tensor([one + [words.pad_token_id] * (longest - len(one)) for one in ids])
    mask = torch.tensor([[1] * 3 + [1] * len(one) + [0] * (longest - len(one)) for one in ids])
    batch = TensorDict({"prompts": torch.ones(len(ids), 3, dtype=torch.long), "responses": padded, "attention_mask": mask}, batch_size=len(ids))

    def objects(values):
        found = numpy.empty(len(values), dtype=object)
        found[:] = values
        return found

    asked = ASKED[:len(answers)]
    return DataProto(batch=batch, non_tensor_batch={
        "raw_prompt": objects([[{"role": "user", "content": one}] for one in asked]), "data_source": objects(["sums"] * len(asked)),
        "reward_model": objects([{"ground_truth": "7"}] * len(asked)), "extra_info": objects([{"question": one} for one in asked])})


def verl_config(engine=None, function=None):
    from omegaconf import OmegaConf
    model = str(MODELS / "demo-reward")
    return OmegaConf.create({
        "actor_rollout_ref": {"model": {"path": model, "tokenizer_path": None}},
        "reward": {"custom_reward_function": {"path": function, "name": "compute_score", "reward_kwargs": {}}, "sandbox_fusion": {"url": None},
                   "reward_manager": {"source": "register", "name": "naive"},
                   "reward_model": {"enable": engine is not None, "model_path": model, "rollout": {"name": engine}}}})


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_verl_with_a_reward_model(http, engine):
    """Its reward loop posts to a server of vLLM's or SGLang's; here to assay-http."""
    pytest.importorskip("verl")
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
    answers = ["4", "5", "seven"]

    async def run():
        worker = RewardLoopWorker(verl_config(engine), f"127.0.0.1:{http.port}")
        return await worker.compute_score_batch(of_verl(answers))

    found = [float32(one["reward_score"]) for one in asyncio.run(run())]
    assert found == scores_of([text_of(*pair) for pair in zip(ASKED, answers)]) and len(set(found)) == 3


def test_verl_with_a_reward_function(served):
    """The same loop with our function, and the batch manager of older versions."""
    pytest.importorskip("verl")
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
    from verl.workers.reward_manager import get_reward_manager_cls
    from assay import verl_reward
    answers = ["4", "5", "seven"]
    expected = scores_of([text_of(*pair) for pair in zip(ASKED, answers)])

    async def run():
        worker = RewardLoopWorker(verl_config(function=verl_reward.__file__))
        return await worker.compute_score_batch(of_verl(answers))

    assert [one["reward_score"] for one in asyncio.run(run())] == expected
    batch = of_verl(answers)
    manager = get_reward_manager_cls("batch")(tokenizer=tokenizer(), num_examine=0, compute_score=verl_reward.compute_score_batch)
    rewards = manager(batch)
    assert [row[row.nonzero()].item() for row in rewards] == expected


# ---- OpenRLHF ----

@pytest.mark.parametrize("way", ["http", "function"])
def test_openrlhf_executor(served, http, way):
    """A rollout of one turn; the engine is a stand-in, its reward is asked for by OpenRLHF's own code."""
    pytest.importorskip("openrlhf")
    from openrlhf.utils.agent import SingleTurnAgentExecutor
    from assay import openrlhf_reward
    words = tokenizer()
    prompt = f"<|im_start|>user\n{ASKED[0]}<|im_end|>\n<|im_start|>assistant\n"

    class Engine:
        async def generate(self, ids, parameters, multi_modal_data=None):
            out = types.SimpleNamespace(token_ids=words("4<|im_end|>", add_special_tokens=False)["input_ids"], finish_reason="stop", logprobs=None)
            return types.SimpleNamespace(outputs=[out])

    url = f"http://127.0.0.1:{http.port}/get_reward" if way == "http" else openrlhf_reward.__file__
    parameters = types.SimpleNamespace(max_tokens=8, logprobs=None)
    output = asyncio.run(SingleTurnAgentExecutor(url).execute(prompt, "7", parameters, 200, words, Engine()))
    (expected,) = scores_of([prompt + "4<|im_end|>"])
    assert output["reward"] is not None, "its own error is in its log"
    for name in ("reward", "scores"):
        found = torch.as_tensor(output[name], dtype=torch.float32)
        assert found.shape == (1,) and found.item() == expected


# ---- ms-swift ----

def test_swift_grpo_rewards(served):
    """Its GRPO's own loop over reward functions; a row that fails is NaN there."""
    pytest.importorskip("swift")
    from swift.rewards import orms
    from swift.rl_core.data import GRPOSample
    from swift.rl_core.grpo_algorithm import compute_rewards_per_func
    import assay.swift_reward  # noqa: F401  registers itself
    answers = ["4", "5", "word " * 3 * served.model["max_len"]]
    samples = [GRPOSample(messages=[{"role": "user", "content": asked}, {"role": "assistant", "content": answer}])
               for asked, answer in zip(ASKED, answers)]
    found = compute_rewards_per_func(samples, [orms["assay"](args=None)], None, torch.device("cpu"))
    assert found[:2, 0].tolist() == scores_of([text_of(*pair) for pair in zip(ASKED, answers[:2])])
    assert found.shape == (3, 1) and torch.isnan(found[2, 0])


# ---- Parquet ----

def test_parquet_with_pyarrow(served, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet  # noqa: F811
    from assay.parquet import json_lines, rows_from_parquet
    asked = [[{"role": "user", "content": one, "name": None}] for one in ASKED]
    pyarrow.parquet.write_table(pyarrow.table({"ask": asked, "out": ["4", "5", None, "7"], "at": [1, 2, 3, 4]}), tmp_path / "rows.parquet")
    rows = list(rows_from_parquet(tmp_path / "rows.parquet", {"prompt": "ask", "response": "out", "id": "at"}))
    assert rows[0] == {"prompt": [{"role": "user", "content": ASKED[0]}], "response": "4", "id": 1} and "response" not in rows[2]
    assert assay.Client().score(rows[:2])[1]["error"] is None
    assert list(json_lines(tmp_path / "rows.parquet", ["out"]))[2] == '{"out": null}'


# ---- the notebook ----

def test_notebook(served, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests/clients"))
    monkeypatch.setenv("ASSAY_ROWS", str(MODELS / "demo-reward.jsonl"))
    notebook = nbformat.read(ROOT / "tests/clients/scores.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    nbclient.NotebookClient(notebook, timeout=300).execute()
    said = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    lines = "".join(output.get("text", "") for output in said).splitlines()
    assert re.fullmatch(r"\d+ rows, \d+ scores, 0 failed", lines[0])
    assert lines[1].startswith("1 ") and any("image/png" in output.get("data", {}) for output in said)
    assert said[-1]["data"]["text/plain"] == repr(lines[1].split()[1])
