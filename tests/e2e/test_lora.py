"""Adapters through the whole service: the scores of the model that PEFT merged each into, rows of several of them mixed, and no
row ever with the score, the prefix or the cached result of another adapter's."""
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess

import pytest
from harness import BIN, MODELS, PATIENCE, ROOT, Broker, Refused, ids_bytes, random_key, wait_until

LORA = MODELS / "lora"
VECTORS = {base: json.loads((ROOT / f"tests/vectors/lora/{base}.json").read_text()) for base in ("reward", "seqcls")}
LAST = {"type": "LAST", "activation": "none"}


def options(base, names=None, directory=LORA):
    """--lora for these adapters of the base; by default for all."""
    names = VECTORS[base]["adapters"] if names is None else names
    return [word for name in names for word in ("--lora", f"{name}={directory / f'{base}-{name}'}")]


def row_of(row):
    adapter = {} if row["adapter"] is None else {"adapter": row["adapter"]}
    return {"ids": ids_bytes(row["ids"]), "pool": row["pool"], **adapter}


def values(row):
    found = row.get("score", row.get("scores", row.get("steps")))
    if not isinstance(found, list):
        return [found]
    return [v for item in found for v in (item if isinstance(item, list) else [item])]


def score(client, rows, **fields):
    found = client.call("score", rows=rows, timeout_ms=60000, timeout=90, **fields)["rows"]
    assert all(row["error"] is None for row in found), found
    return [values(row) for row in found]


@pytest.mark.parametrize("base", VECTORS)
@pytest.mark.parametrize("tp", [1, 2])
def test_scores_agree_with_peft_and_do_not_depend_on_the_batch(directory, base, tp):
    vectors = VECTORS[base]["rows"]
    rows = [row_of(row) for row in vectors]
    with Broker(directory, model=MODELS / base, options=[*options(base), "--tp", tp, "--no-dedupe"]) as broker, broker.client() as client:
        mixed = score(client, rows)
        for found, row in zip(mixed, vectors):
            assert len(found) == len(row["values"])
            assert all(abs(a - b) <= 1e-4 for a, b in zip(found, row["values"])), (row["adapter"], found[:3], row["values"][:3])
        order = random.Random(1).sample(range(len(rows)), len(rows))
        assert score(client, [rows[k] for k in order]) == [mixed[k] for k in order]
        for k in range(0, len(rows), 5):
            assert score(client, [rows[k]]) == [mixed[k]]


@pytest.mark.parametrize("path", sorted((ROOT / "tests/vectors/lora").glob("quantized-*.json")), ids=lambda path: path.stem)
@pytest.mark.parametrize("tp", [1, 2])
def test_over_quantized_bases(directory, path, tp):
    """The scores of what PEFT merged into the values that the base's stored numbers mean."""
    vector = json.loads(path.read_text())
    lora = f"only={LORA / (path.stem + '-only')}"
    with Broker(directory, model=MODELS / vector["model"], options=["--lora", lora, "--tp", tp]) as broker, broker.client() as client:
        assert "quant=" in client.call("hello")["mode"]
        found = score(client, [row_of(row) for row in vector["rows"]])
    assert any(row["adapter"] for row in vector["rows"])
    for got, row in zip(found, vector["rows"]):
        assert len(got) == len(row["values"])
        assert all(abs(a - b) <= 1e-4 for a, b in zip(got, row["values"])), (row["adapter"], got[:3], row["values"][:3])


def test_hello_lists_them_and_a_row_names_one(directory):
    with Broker(directory, model=MODELS / "seqcls", options=options("seqcls")) as broker, broker.client() as client:
        listed = client.call("hello")["model"]["adapters"]
        assert [a["name"] for a in listed] == sorted(VECTORS["seqcls"]["adapters"])
        assert all(len(a["digest"]) == 64 for a in listed) and len({a["digest"] for a in listed}) == 3
        assert "lora" not in client.call("hello")["mode"]
        found = client.call("score", rows=[{"ids": [1, 2]}, {"ids": [1, 2], "adapter": None}, {"ids": [1, 2], "adapter": "linear"},
                                           {"ids": [1, 2], "adapter": "other"}], timeout_ms=30000)["rows"]
        assert found[0]["score"] == found[1]["score"] != found[2]["score"]
        assert found[3]["error"]["code"] == "unknown_adapter" and "'other'" in found[3]["error"]["message"]
        with pytest.raises(Refused) as refused:
            client.call("score", rows=[{"ids": [1], "adapter": 5}])
        assert refused.value.err["field"] == "rows[0].adapter"
    with Broker(directory / "none", model=MODELS / "seqcls") as broker, broker.client() as client:
        assert client.call("hello")["model"]["adapters"] == []
        found = client.call("score", rows=[{"ids": [1], "adapter": "linear"}], timeout_ms=30000)["rows"]
        assert found[0]["error"]["code"] == "unknown_adapter"


def shared_rows():
    """Rows that begin alike, and equal rows, with each adapter and none."""
    rng, rows = random.Random(2), []
    beginning = [rng.randrange(256) for _ in range(120)]
    ends = [[rng.randrange(256) for _ in range(5)] for _ in range(12)]
    for end in ends + ends[:6]:
        for name in (None, *VECTORS["seqcls"]["adapters"]):
            rows.append({"ids": beginning + end, "pool": LAST, **({"adapter": name} if name else {})})
    return rows


def test_prefixes_equal_rows_and_the_cache_keep_adapters_apart(directory):
    """Against a broker that shares, copies and remembers nothing."""
    rows, plain = shared_rows(), ["--no-prefix-sharing", "--no-dedupe"]
    with Broker(directory / "plain", model=MODELS / "seqcls", options=[*options("seqcls"), *plain]) as broker, broker.client() as client:
        truth = score(client, rows)
    assert len({v[0] for v in truth}) == 12 * 4
    with Broker(directory / "all", model=MODELS / "seqcls",
                options=[*options("seqcls"), "--score-cache", "16M"]) as broker, broker.client() as client:
        assert score(client, rows, key="a") == truth
        assert client.call("status", job="a")["copied"] == 6 * 4
        assert score(client, list(reversed(rows)), key="b") == truth[::-1]
        assert client.call("status", job="b")["cached"] > 0
    # The cache knows base rows whatever is loaded, and no adapter by its name alone.
    shutil.copytree(LORA / "seqcls-patterns", directory / "other")
    with Broker(directory / "all", model=MODELS / "seqcls",
                options=["--lora", f"linear={directory / 'other'}", "--score-cache", "16M"]) as broker, broker.client() as client:
        some = [dict(row, adapter="linear") for row in rows if row.get("adapter") == "patterns"]
        assert score(client, some, key="c") == [v for row, v in zip(rows, truth) if row.get("adapter") == "patterns"]


def long_rows(n=1500):
    names = [None, *VECTORS["reward"]["adapters"]]
    rng = random.Random(3)
    return [{"id": k, "ids": [k % 500, k // 500, *(rng.randrange(500) for _ in range(60))], "pool": LAST,
             **({"adapter": names[k % 4]} if names[k % 4] else {})} for k in range(n)]


def results_of(client, key):
    rows = client.results(key, timeout=120)
    assert all(row["error"] is None for row in rows), [row for row in rows if row["error"]][:1]
    assert len({row["i"] for row in rows}) == len(rows)
    return {row["i"]: row["score"] for row in rows}


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    with Broker(tmp_path_factory.mktemp("truth"), model=MODELS / "reward", options=options("reward")) as broker, broker.client() as client:
        client.submit("truth", long_rows())
        return results_of(client, "truth")


def begin(client, key):
    client.submit(key, long_rows())
    wait_until(lambda: client.call("status", job=key)["done"] > 50, 60)


def test_killed_again_and_again(directory, truth):
    """Ranks and broker are killed while a job of several adapters runs: every row once, with the same bits."""
    broker = Broker(directory, model=MODELS / "reward", options=options("reward"))
    with broker:
        with broker.client() as client:
            begin(client, "job")
        for _ in range(3):
            for pid in broker.worker_pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            broker.kill9()
            broker.start()
        with broker.client() as client:
            assert results_of(client, "job") == truth


def test_an_adapter_under_another_name_is_the_same(directory, truth):
    right = options("reward")
    broker = Broker(directory, model=MODELS / "reward", options=right)
    with broker:
        with broker.client() as client:
            begin(client, "job")
        broker.kill9()
        broker.command = [word.replace("half=", "quarter=") for word in broker.command]
        broker.start()
        with broker.client() as client:
            assert results_of(client, "job") == truth


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_an_adapter_that_is_not_what_it_was_holds_the_job(directory, truth, what):
    directory.mkdir(exist_ok=True)
    for name in VECTORS["reward"]["adapters"]:
        shutil.copytree(LORA / f"reward-{name}", directory / f"reward-{name}")
    right = options("reward", directory=directory)
    wrong = {"gone": options("reward", ["all", "half"], directory),
             "changed": right}[what]
    config = directory / "reward-attention/adapter_config.json"
    kept = config.read_text()
    broker = Broker(directory / "data", model=MODELS / "reward", options=right)
    command = broker.command
    with broker:
        with broker.client() as client:
            begin(client, "job")
        broker.kill9()
        if what == "changed":
            config.write_text(kept.replace('"lora_alpha": 6', '"lora_alpha": 7'))
        broker.command = [word for word in command if word not in right] + wrong
        broker.start()
        with broker.client() as client:
            status = client.call("status", job="job")
            now = {"gone": "none of that name", "changed": "attention ("}[what]
            assert status["state"] == "paused" and "made with adapter attention (" in status["reason"], status
            assert f"the broker has {now}" in status["reason"], status
            assert broker.sql("select state, reason from jobs where key = 'job'")[0] == ("paused", status["reason"])
        broker.stop()
        config.write_text(kept)
        broker.command = command
        broker.start()
        with broker.client() as client:
            assert results_of(client, "job") == truth


def test_adapters_that_no_row_names_hold_nothing(directory):
    """Base rows go on under any list, rows of an adapter under any that has it; both with the same bits."""
    rows = [row for row in long_rows() if row.get("adapter") in (None, "half")]
    broker = Broker(directory, model=MODELS / "reward", options=[*options("reward", ["half"]), "--score-cache", "16M"])
    with broker:
        with broker.client() as client:
            for key, some in (("base", [row for row in rows if "adapter" not in row]), ("half", rows)):
                client.submit(key, some)
            wait_until(lambda: all(client.call("status", job=key)["done"] > 20 for key in ("base", "half")), 60)
        broker.kill9()
        broker.command += options("reward", ["all"])
        broker.start()
        with broker.client() as client:
            assert {client.call("status", job=key)["state"] for key in ("base", "half")} <= {"queued", "running", "done"}
            base, half = results_of(client, "base"), results_of(client, "half")
        broker.stop()
        broker.command = [word for word in broker.command if "half=" not in word and "all=" not in word and word != "--lora"]
        broker.start()
        with broker.client() as client:
            found = score(client, [row for row in rows if "adapter" not in row])
            assert [v for (v,) in found] == [base[i] for i in range(len(found))]
            assert client.call("status", job="half")["state"] == "done" and "half" in client.call("status", job="half")["made_otherwise"]
    assert len(half) == len(rows)


def test_accept_mode_fails_the_rows_of_an_adapter_that_is_gone(directory, truth):
    broker = Broker(directory, model=MODELS / "reward", options=options("reward"))
    with broker:
        with broker.client() as client:
            begin(client, "job")
            done = {i for (i,) in broker.sql("select i from results")}
        broker.kill9()
        gone = ["--lora", f"half={LORA / 'reward-half'}"]
        broker.command = [word for word in broker.command if word not in options("reward")] + ["--lora", gone[1]]
        broker.start()
        with broker.client() as client:
            client.call("resume", job="job", accept_mode=True)
            rows, found = long_rows(), client.results("job", timeout=120)
            for row in found:
                adapter = rows[row["i"]].get("adapter")
                if row["error"]:
                    assert row["error"]["code"] == "unknown_adapter" and adapter in row["error"]["message"]
                    assert adapter in ("all", "attention") and row["i"] not in done
                else:
                    assert row["score"] == truth[row["i"]]
            assert len(found) == len(rows) and any(row["error"] for row in found)


def test_changed_under_a_running_broker(directory):
    """The ranks have copies; one that starts anew finds the change, and says which adapter it is."""
    directory.mkdir(exist_ok=True)
    shutil.copytree(LORA / "reward-half", directory / "half")
    with Broker(directory / "data", model=MODELS / "reward", options=["--lora", f"half={directory / 'half'}"]) as broker:
        with broker.client() as client:
            before = score(client, [{"ids": [1, 2, 3], "pool": LAST, "adapter": "half"}])
            config = directory / "half/adapter_config.json"
            config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
            assert score(client, [{"ids": [1, 2, 3], "pool": LAST, "adapter": "half"}], fresh=True) == before
        for pid in broker.worker_pids():
            os.kill(pid, signal.SIGKILL)
        assert broker.process.wait(60 * PATIENCE) == 78, broker.words()
        assert "the adapter 'half'" in broker.words() and "changed under the running broker" in broker.words()


@pytest.mark.parametrize("option, word", [("half", "NAME=DIR"), ("a b=/x", "NAME=DIR"), ("=/x", "NAME=DIR"), ("a=", "NAME=DIR")])
def test_options_that_are_not_name_and_directory(option, word):
    done = subprocess.run([BIN / "assayd", "--model", MODELS / "reward", "--lora", option], capture_output=True, text=True, timeout=30)
    assert done.returncode == 64 and word in done.stderr


def test_adapters_that_cannot_be_taken(directory):
    directory.mkdir(exist_ok=True)
    for adapter, word in ((LORA / "seqcls-linear", "model.score"), (directory / "none", "adapter_config.json")):
        done = subprocess.run([BIN / "assayd", "--model", MODELS / "reward", "--data", directory / "data", "--lora", f"a={adapter}"],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 78 and word in done.stderr, done
    shutil.copytree(LORA / "reward-all", directory / "headed")
    (directory / "headed/value_head.safetensors").write_bytes(b"")
    done = subprocess.run([BIN / "assayd", "--model", MODELS / "reward", "--data", directory / "data", "--lora", f"a={directory / 'headed'}"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 78 and "value_head.safetensors: a head beside an adapter" in done.stderr, done.stderr
    twice = ["--lora", f"a={LORA / 'reward-all'}"] * 2
    done = subprocess.run([BIN / "assayd", "--model", MODELS / "reward", *twice], capture_output=True, text=True, timeout=30)
    assert done.returncode == 64 and "another name" in done.stderr


def other_tokens(text):
    tokenizer = json.loads(text)
    tokenizer["added_tokens"][-1]["content"] = "<new>"
    return json.dumps(tokenizer)


def without_merges(text):
    tokenizer = json.loads(text)
    tokenizer["model"]["merges"] = []
    return json.dumps(tokenizer)


def with_a_flag(text):
    tokenizer = json.loads(text)
    tokenizer["added_tokens"][-1]["lstrip"] = True
    return json.dumps(tokenizer)


def as_a_word(text):
    tokenizer = json.loads(text)
    tokenizer["added_tokens"][-1]["single_word"] = True
    return json.dumps(tokenizer)


@pytest.mark.parametrize("name, change, words", [
    ("tokenizer.json", as_a_word, "difference in the flags of the added tokens"), ("tokenizer.json", without_merges, "difference in the merges"), ("tokenizer.json", with_a_flag, "difference in the flags of the added tokens"),
    ("additional_chat_templates/tool_use.jinja", lambda text: "{{ tools }}", "named tool_use"),
    ("tokenizer.json", lambda text: text + " ", None), ("tokenizer.json", other_tokens, "difference in the token under id "),
    ("tokenizer.json", lambda text: "{", "not JSON"),
    ("tokenizer_config.json", lambda text: json.dumps(dict(json.loads(text), eos_token="<|endoftext|>")), "base's eos_token"),
    ("tokenizer_config.json", lambda text: json.dumps(dict(json.loads(text), chat_template="{{ messages }}")),
     "tokenizer_config.json: expected the base's chat template, found another"),
    ("chat_template.jinja", lambda text: "{{ messages }}", "chat_template.jinja: expected the base's chat template, found another")])
def test_text_files_beside_an_adapter(directory, name, change, words):
    """Trainers save them; where they would write rows otherwise than the base's, the start is refused by name."""
    directory.mkdir(exist_ok=True)
    base, adapter = directory / "base", directory / "adapter"
    shutil.copytree(MODELS / "reward", base)
    shutil.copytree(LORA / "reward-all", adapter)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        for folder in (base, adapter):
            shutil.copy(MODELS / "demo-reward" / file, folder)
    (adapter / name).parent.mkdir(exist_ok=True)
    text = (adapter / name).read_text() if (adapter / name).exists() else ""
    (adapter / name).write_text(change(text))
    command = [BIN / "assayd", "--model", base, "--data", directory / "data", "--lora", f"a={adapter}"]
    if words:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE)
        assert done.returncode == 78 and "--lora a: " in done.stderr and words in done.stderr, done.stderr
    named = ["--chat-template", "chatml"] if words and "chat template" in words else []
    if named or not words:
        with Broker(directory / "data", model=base, options=["--lora", f"a={adapter}", *named]) as broker, broker.client() as client:
            assert client.call("score", rows=[{"prompt": "a", "response": "b", "adapter": "a"}])["rows"][0]["error"] is None


def test_the_length_that_an_adapters_files_leave(directory):
    """A row that says truncate and no more may be cut as its adapter's tokenizer would cut it, or as the broker does."""
    directory.mkdir(exist_ok=True)
    base, adapter, other = directory / "base", directory / "adapter", directory / "other"
    for folder, source, length in ((base, MODELS / "reward", None), (adapter, LORA / "reward-all", 8), (other, LORA / "reward-all", int(1e30))):
        shutil.copytree(source, folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(MODELS / "demo-reward" / file, folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": length} if length else settings))
    row = {"text": "one two three four five six seven", "truncate": True}
    with Broker(directory / "data", model=base, options=["--lora", f"a={adapter}"]) as broker, broker.client() as client:
        client.call("adapter_add", name="b", dir=str(other), timeout=60)
        client.call("adapter_add", name="c", dir=str(adapter), timeout=60)

        def errors(**fields):
            found = client.call("score", rows=[{**row, **fields, "adapter": name} for name in "abc"] + [{**row, **fields}])["rows"]
            return [found_row["error"] and found_row["error"]["message"].split(",")[0] for found_row in found]

        refused = "max_length: expected a number"
        assert errors() == [refused, None, refused, None]
        assert errors(max_length=9) == [None] * 4 and errors(truncate=False) == [None] * 4


def run_score(directory, *more, **adapters):
    (directory / "in.jsonl").write_text('{"ids": [1, 2, 3], "adapter": "x"}\n') if not (directory / "in.jsonl").exists() else None
    loras = [word for name, path in adapters.items() for word in ("--lora", f"{name}={path}")]
    return subprocess.run([BIN / "assay", "score", directory / "in.jsonl", "--model", MODELS / "reward", *loras, *map(str, more)],
                          capture_output=True, text=True, timeout=60 * PATIENCE)


def test_an_output_of_other_adapters_is_scored_anew(directory):
    """It is not whole where one of several adapters, its name or its files are others."""
    directory.mkdir(exist_ok=True)
    out, mine = directory / "out", directory / "mine"
    shutil.copytree(LORA / "reward-all", mine)
    all, half, attention = (LORA / f"reward-{name}" for name in ("all", "half", "attention"))

    def scored(**adapters):
        done = run_score(directory, "-o", out, **adapters)
        assert done.returncode == 0, done.stderr
        return json.loads(out.read_text())["score"], "there and whole" in done.stderr

    first = scored(x=mine)
    assert first == scored(x=mine, y=attention)[:1] + (False,) and scored(x=mine, y=attention)[1]
    other = scored(x=half, y=attention)
    assert other[0] != first[0] and not other[1]
    for file in half.iterdir():
        shutil.copy(file, mine)
    assert scored(x=mine, y=attention) == other == scored(y=attention, x=mine)[:1] + (False,)


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "new.json"])
def test_an_adapters_files_are_no_output(directory, used, name):
    directory.mkdir(exist_ok=True)
    adapter = directory / "adapter"
    shutil.copytree(LORA / "reward-all", adapter)
    before = {file.name: file.read_bytes() for file in adapter.iterdir()}
    (directory / "link").symlink_to(adapter / name)
    for place in (adapter / name, directory / "link"):
        done = run_score(directory, "-o", place, x=adapter if used else LORA / "reward-half")
        assert done.returncode == 64 and "--output" in done.stderr, done.stderr
    assert {file.name: file.read_bytes() for file in adapter.iterdir()} == before


def test_the_command_line(directory):
    """assay score --lora, with a column that names the adapter; and assay verify of such a job."""
    directory.mkdir(exist_ok=True)
    rows = [{"ids": row["ids"], "adapter": row["adapter"], "pool": row["pool"]} for row in VECTORS["reward"]["rows"]]
    file, out = directory / "rows.jsonl", directory / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run([BIN / "assay", "score", file, "-o", out, "--model", MODELS / "reward", *options("reward")],
                          capture_output=True, text=True, timeout=120 * PATIENCE)
    assert done.returncode == 0, done.stderr
    for line, row in zip(out.read_text().splitlines(), VECTORS["reward"]["rows"]):
        assert all(abs(a - b) <= 1e-4 for a, b in zip(values(json.loads(line)), row["values"])), line
    with Broker(directory / "data", model=MODELS / "reward", options=options("reward")) as broker, broker.client() as client:
        client.submit("shapes", [row_of(row) for row in VECTORS["reward"]["rows"]])
        client.results("shapes")
        done = subprocess.run([BIN / "assay", "verify", "shapes", "--data", broker.data], capture_output=True, text=True,
                              timeout=60 * PATIENCE, stdin=subprocess.DEVNULL)
        assert done.returncode == 0 and "24" in done.stdout + done.stderr, done
