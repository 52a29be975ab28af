"""`assay check`: what a checkpoint is taken for, and what is missing."""
import json
import shutil
import subprocess

import pytest
from harness import BIN, MODELS, PATIENCE


def check(model, *options):
    return subprocess.run([BIN / "assay", "check", model, *options], capture_output=True, text=True, timeout=60 * PATIENCE)


def said(done):
    return {line[:15].strip(): line[15:] for line in done.stdout.splitlines()}


@pytest.fixture
def text_model(directory):
    return shutil.copytree(MODELS / "demo-reward", directory / "m")


def test_a_whole_checkpoint(text_model):
    done = check(text_model)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 11
    words = said(done)
    assert words["model"] == "Qwen2ForRewardModel"
    assert words["trunk"] == "6 layers, 128 wide, 4 heads of 64 (2 for keys and values)"
    assert words["scores"] == "1 label, pooling LAST, activation none"
    assert words["tokenizer"] == "BPE over bytes, 299 ids"
    assert words["chat template"] == "chatml, in tokenizer_config.json"
    assert words["text rows"] == "can be scored"
    about = json.loads(check(text_model, "--json").stdout)
    assert about["architecture"] == "Qwen2ForRewardModel" and about["text_rows"] and about["reason"] is None


@pytest.mark.parametrize("name", sorted(path.name for path in MODELS.iterdir() if (path / "config.json").exists()))
def test_every_checkpoint_of_the_tests(name):
    """Each is described, or refused by the option that is missing; texts can be scored where there is a tokenizer."""
    config = json.loads((MODELS / name / "config.json").read_text())
    done = check(MODELS / name)
    if done.stdout == "":
        assert done.returncode == 78 and "--head" in done.stderr and config["architectures"][0].endswith("ForCausalLM"), done
        done = check(MODELS / name, "--head", "lm:5,7:softmax")
    words = said(done)
    assert words["model"] == config["architectures"][0]
    assert f"{config['num_hidden_layers']} layers, {config['hidden_size']} wide, {config['num_attention_heads']} heads" in words["trunk"]
    can = words["text rows"] == "can be scored" or "conversations cannot: the checkpoint has no chat template" in words["text rows"]
    assert done.returncode == (0 if can else 78) and (can or "tokenizer.json" in words["text rows"])
    assert (MODELS / name / "tokenizer.json").exists() or words["text rows"] == "cannot be scored: the checkpoint has no tokenizer.json; send ids"
    assert ("step token" in words) == ("pooling STEP" in words["scores"] and "recipe" not in words)


def test_what_is_missing(text_model):
    config = json.loads((text_model / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (text_model / "tokenizer_config.json").write_text(json.dumps(config))
    done = check(text_model)
    assert done.returncode == 0 and said(done)["chat template"].startswith("none: the checkpoint has no chat template")
    (text_model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert said(check(text_model))["chat template"] == "interpreted, in chat_template.jinja"
    assert said(check(text_model, "--chat-template", "qwen2.5"))["chat template"] == "qwen2.5"
    (text_model / "tokenizer.json").write_text("{")
    done = check(text_model)
    assert done.returncode == 78 and "tokenizer.json" in done.stdout + done.stderr, done
    (text_model / "config.json").write_text("{}")
    done = check(text_model)
    assert (done.returncode, done.stdout) == (78, "") and "config.json" in done.stderr


def test_no_directory(directory):
    done = check(directory / "nowhere")
    assert (done.returncode, done.stdout) == (78, "") and "nowhere" in done.stderr
    assert check("owner/name").returncode == 78
    done = subprocess.run([BIN / "assay", "check"], capture_output=True, text=True)
    assert done.returncode == 64 and "DIR" in done.stderr


# ---- rows that cannot be written ----

def without(directory, model, key):
    """The checkpoint without a field of its tokenizer_config.json."""
    path = shutil.copytree(MODELS / model, directory / "m") / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config[key]
    path.write_text(json.dumps(config))
    return path.parent


@pytest.mark.parametrize("model, key, options, words", [
    ("recipe-llama", "chat_template", ("--recipe", "rlhflow-prm"), "prompt and steps cannot: the checkpoint has no chat template"),
    ("recipe-llama", "chat_template", ("--recipe", "nemotron-reward"), "conversations cannot: the checkpoint has no chat template"),
    ("recipe-skywork", "bos_token", ("--recipe", "skywork-prm"), "prompt and steps cannot: the recipe skywork-prm begins with bos_token"),
    ("recipe-skywork", "bos_token", (), "prompt and steps cannot: the recipe skywork-prm begins with bos_token"),
    ("recipe-openrlhf", "eos_token", ("--recipe", "openrlhf"), "conversations cannot: expected an eos_token in tokenizer_config.json"),
    ("recipe-openrlhf", "eos_token", ("--tail", "strip,eos"), "conversations cannot: expected an eos_token in tokenizer_config.json")])
def test_what_a_recipe_lacks(directory, model, key, options, words):
    whole = check(MODELS / model, *options)
    assert whole.returncode == 0 and said(whole)["text rows"] == "can be scored", whole
    path = without(directory, model, key)
    done, about = check(path, *options), json.loads(check(path, *options, "--json").stdout)
    assert done.returncode == 78 and said(done)["text rows"].startswith(f"can be scored as they are; {words}"), done
    assert about["text_rows"] is False and about["reason"].startswith(words.split(" cannot: ")[1]), about


def test_a_template_that_asks_for_the_date(text_model):
    (text_model / "chat_template.jinja").write_text("{{ strftime_now('%d') }}{% for m in messages %}{{ m.content }}{% endfor %}")
    done = check(text_model)
    assert done.returncode == 78 and "conversations cannot: " in said(done)["text rows"] and "--template-date" in said(done)["text rows"], done
    assert check(text_model, "--template-date", "2026-01-02").returncode == 0


@pytest.mark.parametrize("options, words", [
    (("--max-len", "0"), "--max-len: expected an integer from 1 to 16777216, found '0'"), (("--max-len", "many"), "--max-len: expected an integer"),
    (("--max-len", "16777217"), "--max-len: expected an integer"), (("--tail", "eos"), "--tail: expected one of none strip strip,eos, found 'eos'"),
    (("--tail", "strip", "--recipe", "qwen2.5-math-rm"), "--recipe and --tail: expected one of them")])
def test_options_that_are_refused(text_model, options, words):
    done = check(text_model, *options)
    assert (done.returncode, done.stdout) == (64, "") and words in done.stderr, done
