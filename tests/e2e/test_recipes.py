"""Recipes: text rows against the publishers' own arithmetic (tests/reference/make_recipes.py), the mode that keeps recipes apart, and what
contradicts one."""
import json
import subprocess

import pytest
from harness import BIN, MODELS, PATIENCE, ROOT, Broker, Refused
from test_cli import run
from test_golden import close, values

VECTORS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "tests/vectors/recipes").glob("*.json"))}
LLAMA = MODELS / "recipe-llama"


def score(directory, vectors, rows, options=()):
    with Broker(directory, model=MODELS / vectors["model"], options=["--recipe", vectors["recipe"], *options]) as broker:
        with broker.client() as client:
            return client.call("score", rows=rows, timeout_ms=60000)["rows"]


def result(row):
    return [row["chosen"], row["rejected"]] if "chosen" in row else values(row)


@pytest.mark.parametrize("name", VECTORS)
def test_rows_are_scored_as_the_publisher_does(directory, name):
    vectors = VECTORS[name]
    found = score(directory / "d", vectors, [row["row"] for row in vectors["rows"]])
    for got, row in zip(found, vectors["rows"]):
        assert got["error"] is None, (row["row"], got)
        assert got["n_tokens"] == len(row["ids"]), (row["row"], got)
        assert close(result(got), row["values"]), (row["row"], got, row["values"])


def tokenize(directory, model, rows, *options):
    """What `assay tokenize` shows for rows, a line each."""
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("tokenize", "--jsonl", directory / "rows.jsonl", "--model", model, *options)
    assert done.stderr == "", done
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def flat(ids):
    return [token for part in ids for token in part] if ids and isinstance(ids[0], list) else ids


@pytest.mark.parametrize("name", VECTORS)
def test_tokenize_shows_the_rows_of_a_recipe(directory, name):
    vectors = VECTORS[name]
    rows = [row["row"] for row in vectors["rows"]]
    code, found = tokenize(directory, MODELS / vectors["model"], rows, "--recipe", vectors["recipe"])
    assert code == 0 and [flat(line["ids"]) for line in found] == [row["ids"] for row in vectors["rows"]]
    for line, row in zip(found, rows):
        assert isinstance(line["ids"][0], list) == any(key in row for key in ("responses", "documents", "chosen")), (line, row)


def test_tokenize_shows_any_row(directory):
    """The ids of each, and for each what a score of it would say: the same ids give the same score."""
    demo, ask, answer = MODELS / "demo-reward", "1 + 1 = ?", "2"
    rows = [{"prompt": ask, "response": answer}, {"messages": [{"role": "user", "content": ask}]}, {"prompt": ask, "responses": ["2", "3"]},
            {"chosen": "a", "rejected": "b"}, {"prompt": ask, "chosen": "2", "rejected": "3"}, {"input_ids": [5, 6]}, {"text": "a", "label": 1}]
    bad = [{"query": "a", "document": "b"}, {"prompt": ask}, {"text": "a", "context": "c"}]
    for options in ((), ("--tail", "strip,eos"), ("--chat-template", "qwen2.5"), ("--safe-text", "--join-content")):
        code, found = tokenize(directory, demo, rows + bad, *options)
        assert code == 1 and all(line["ids"] is None for line in found[len(rows):]), found
        for line, word in zip(found[len(rows):], ("query: expected a broker with a recipe", "expected input_ids", "context: line 10")):
            assert word in line["error"]["message"], line
        own = [option for option in options if option not in ("--safe-text", "--join-content")]
        sent = [{("ids" if key == "input_ids" else key): value for key, value in row.items() if key != "label"} for row in rows]
        with Broker(directory / ("d" + "".join(options)[:6].replace("-", "x")), model=demo, options=own) as broker, broker.client() as client:
            for row, line in zip(sent, found):
                if options == ("--tail", "strip,eos") and "prompt" not in row and "chosen" in row:
                    assert "chosen: expected messages" in line["error"]["message"]
                    continue
                parts = line["ids"] if isinstance(line["ids"][0], list) else [line["ids"]]
                one, *others = client.call("score", rows=[row] + [{"ids": ids} for ids in parts])["rows"]
                scores = one.get("scores") or ([one["chosen"], one["rejected"]] if "chosen" in one else [one["score"]])
                assert scores == [other["score"] for other in others] and one["n_tokens"] == sum(map(len, parts)), (row, line, one)
    steps = {"prompt": "a", "steps": ["b", "c"]}
    code, found = tokenize(directory, MODELS / "demo-process", [steps])
    assert code == 0 and sum(token == 298 for token in found[0]["ids"]) == 2, found  # <extra_0>


@pytest.mark.parametrize("arguments, words", [
    (("a", "--recipe", "nemotron-reward"), "tokenize: --recipe: expected with --jsonl FILE"), (("a", "--tail", "strip"), "tokenize: --tail: expected"),
    (("--jsonl", "x", "--recipe", "nemotron-reward", "--tail", "strip"), "--recipe and --tail: expected one of them"),
    (("--jsonl", "x", "--recipe", "inf-orm"), "--recipe inf-orm: architectures: expected INFORMForSequenceClassification")])
def test_tokenize_refuses(arguments, words):
    done = run("tokenize", *arguments, "--model", LLAMA)
    assert done.returncode in (64, 78) and words in done.stderr, done


def test_each_recipe_is_listed_and_has_vectors():
    done = run("info", "--recipes", "--json")
    listed = {entry["name"]: entry for entry in json.loads(done.stdout)}
    text = run("info", "--recipes").stdout
    assert done.returncode == 0 and set(VECTORS) <= set(listed)
    assert set(listed) - set(VECTORS) <= {"qwen2.5-math-rm", "qwen2.5-math-prm"}, "new ones need vectors"  # those two: test_demo.py
    for name, entry in listed.items():
        assert f"\n{name}\n" in "\n" + text and all(entry[key] for key in ("for", "architectures", "head", "rows", "text", "scored"))


def test_the_recipe_is_part_of_mode_and_hello(directory):
    with Broker(directory / "d", model=LLAMA, options=["--recipe", "nemotron-reward"]) as broker, broker.client() as client:
        hello = client.call("hello")
        assert hello["mode"].endswith(" recipe=nemotron-reward") and " head=lm:0:raw" in hello["mode"]
        assert hello["model"]["recipe"] == "nemotron-reward"
        client.submit("key", VECTORS["nemotron-reward"]["rows"][0]["row"] and [VECTORS["nemotron-reward"]["rows"][0]["row"]], seal=False)
    with Broker(directory / "d", model=LLAMA, options=["--head", "lm:0:raw"]) as broker, broker.client() as client:
        assert client.call("hello")["model"]["recipe"] is None and "recipe" not in client.call("hello")["mode"]
        assert "recipe=nemotron-reward" in client.call("status", job="key")["reason"]


@pytest.mark.parametrize("options, words", [
    (["--recipe", "nemotron"], "--recipe: expected qwen2.5-math-rm, "), (["--recipe", ""], "--recipe: expected"),
    (["--recipe", "nemotron-reward", "--head", "lm:0:raw"], "--head: expected auto with --recipe"),
    (["--recipe", "nemotron-reward", "--hf-pad-rule", "on"], "--hf-pad-rule: expected auto with --recipe"),
    (["--recipe", "mxbai-rerank-v2", "--model", MODELS / "lm-difference"], "--recipe mxbai-rerank-v2: expected a tokenizer: "),
    (["--recipe", "inf-orm"], "--recipe inf-orm: architectures: expected INFORMForSequenceClassification, found 'LlamaForCausalLM'")])
def test_what_contradicts_a_recipe(directory, options, words):
    model = [] if "--model" in options else ["--model", LLAMA]
    done = subprocess.run([BIN / "assayd", *model, "--data", directory / "d", *options], capture_output=True, text=True,
                          timeout=60 * PATIENCE)
    assert done.returncode in (64, 78) and words in done.stderr, done.stderr
    assert not (directory / "d/assay.db").exists()


@pytest.mark.parametrize("option, value", [("head", "lm:0:raw"), ("pool", "MEAN"), ("step-token", "5"), ("activation", "sigmoid"),
                                           ("hf-pad-rule", "off")])
def test_options_of_the_command_beside_a_recipe(directory, option, value):
    rows = directory / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    done = run("score", rows, "-o", directory / "out", "--model", LLAMA, "--recipe", "nemotron-reward", f"--{option}", value)
    assert done.returncode == 64 and f"--recipe and --{option}: expected one of them" in done.stderr, done.stderr


def test_rows_that_contradict_a_recipe(directory):
    vectors = VECTORS["nemotron-reward"]
    row, expected = vectors["rows"][0]["row"], vectors["rows"][0]["values"]
    good, pool, activation, rule, steps = score(directory / "d", vectors, [
        dict(row, pool={"type": "LAST", "activation": "none"}), dict(row, pool={"type": "MEAN"}), dict(row, pool={"activation": "sigmoid"}),
        dict(row, hf_pad_rule=True), {"prompt": "a", "steps": ["b"]}])
    assert close(values(good), expected)
    for got, words in ((pool, "pool.type: the recipe nemotron-reward scores by LAST, found MEAN"),
                       (activation, "pool.activation: the recipe nemotron-reward has none, found sigmoid"),
                       (rule, "hf_pad_rule: the recipe nemotron-reward"), (steps, "steps: the recipe nemotron-reward is for rows of")):
        assert got["error"]["code"] == "bad_request" and words in got["error"]["message"], got


# ---- query and document ----

RERANKER = VECTORS["qwen3-reranker"]


def test_lines_of_query_and_documents(directory):
    """Rows through the command line, and what stands beside them."""
    rows = [dict(row["row"], id=k, label=1, url="x", tools=[], add_generation_prompt=False, chat_template_kwargs={}) for k, row in enumerate(RERANKER["rows"])]
    rows += [{"query": "a", "document": "b", "context": "c"}, {"query": "a", "document": "b", "documents": ["c"]},
             {"query": "a", "documents": "b"}, {"query": "a", "document": "b", "prompt": "c"}, {"query": "a", "document": "b", "system": "c"},
             {"query": "a", "text": "t", "document": "c"}, {"prompt": "a", "response": "b"}, {"query": "a", "document": "b", "instruction": 5},
             {"query": "a", "documents": []}, {"query": "a", "document": "b", "tools": [{"name": "add"}]},
             {"query": "a", "documents": ["b"], "add_generation_prompt": True},
             {"query": "a", "document": "b", "chat_template_kwargs": {"enable_thinking": False}},
             {"query": "a", "document": "b", "enable_thinking": True}, {"query": "a", "document": "b", "continue_final_message": True}]
    (directory / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("score", directory / "in.jsonl", "-o", directory / "out.jsonl", "--model", MODELS / RERANKER["model"], "--recipe",
               "qwen3-reranker")
    found = [json.loads(line) for line in (directory / "out.jsonl").read_text().splitlines()]
    assert done.returncode == 1, done.stderr
    for got, row in zip(found, RERANKER["rows"]):
        assert close(values(got), row["values"]) and ("best" in got) == ("documents" in row["row"]), got
    words = ["context", "documents", "documents", "prompt", "system", "document", "response: the recipe qwen3-reranker is for rows of query and",
             "instruction", "documents: expected 1 to 4096, found 0", "tools: ",
             "add_generation_prompt: ", "chat_template_kwargs: ", "enable_thinking: ", "continue_final_message: "]
    for got, word in zip(found[len(RERANKER["rows"]):], words, strict=True):
        assert got["error"] and word in got["error"]["message"], got


def test_a_query_needs_a_recipe_for_it(directory):
    row = {"query": "a", "document": "b"}
    with Broker(directory / "d", model=LLAMA, options=["--head", "lm:0:raw"]) as broker, broker.client() as client:
        got = client.call("score", rows=[row])["rows"][0]
        assert got["error"]["code"] == "bad_request" and "query: expected a broker with a recipe" in got["error"]["message"], got
        for wrong in ({"query": "a"}, dict(row, documents=["c"]), dict(row, prompt="p"), {"text": "a", "instruction": "b"},
                      dict(row, system="s"), dict(row, query=[{"role": "user", "content": "a"}]), dict(row, document=["b"])):
            with pytest.raises(Refused, match="bad_request"):
                client.call("score", rows=[wrong])
    got = score(directory / "e", VECTORS["nemotron-reward"], [row])[0]
    assert "document: the recipe nemotron-reward is for rows of messages" in got["error"]["message"], got


def test_a_long_document_is_cut_inside_its_prompt(directory):
    """As the card cuts it: the end of what is between prefix and suffix goes, which stay."""
    row, ids = RERANKER["rows"][1]["row"], RERANKER["rows"][1]["ids"]
    suffix = max(k for k, token in enumerate(ids) if token == 300)  # <|im_end|>
    cut = ids[:suffix - 4] + ids[suffix:]
    long, short, as_ids, none = score(directory / "d", RERANKER, [
        row, dict(row, truncate=True), {"ids": cut}, dict(row, truncate=True, max_length=60)], ["--max-len", len(cut)])
    assert long["error"]["code"] == "too_long" and short["n_tokens"] == len(cut)
    assert short["score"] == as_ids["score"] and short["pooled_at"] == as_ids["pooled_at"]
    assert none["error"]["code"] == "too_long" and "or a recipe, found 60" in none["error"]["message"], none


def test_errors_name_the_document(directory):
    """As it comes, and when its turn comes."""
    long = "word " * 100
    row = {"query": "a", "documents": ["b", long, "c"]}
    options = dict(model=MODELS / RERANKER["model"])
    with Broker(directory / "d", options=["--recipe", "qwen3-reranker", "--max-len", 300], **options) as broker, broker.client() as client:
        bad, cut = client.call("score", rows=[row, dict(row, truncate=True)])["rows"]
        assert bad["error"]["message"].startswith("documents[1]: expected at most 300 tokens, found "), bad
        assert cut["error"] is None and len(cut["scores"]) == 3, cut
        assert broker.sql("select i, n, best from response_stats") == [(1, 3, cut["best"])]
        assert broker.sql("select rank from responses order by response") == [(rank,) for rank in cut["ranks"]]
    with Broker(directory / "e", options=["--recipe", "qwen3-reranker"], **options) as broker, broker.client() as client:
        client.call("pause", job=client.submit("waits", [{"ids": [1]}], seal=False)["job"])
        assert client.submit("waits", [row], chunk=1)["accepted"] == 1
        broker.kill9()
    with Broker(directory / "e", options=["--recipe", "qwen3-reranker", "--max-len", 300], **options) as broker, broker.client() as client:
        client.call("resume", job="waits")
        found = sorted(client.results("waits"), key=lambda row: row["i"])
    assert found[-1]["error"]["message"].startswith("documents[1]: expected at most 300 tokens"), found


def test_control_tokens_in_documents(directory):
    """They are tokens, as in the reference, unless safe_text says that they are text."""
    row = dict(RERANKER["rows"][0]["row"], documents=[RERANKER["rows"][0]["row"]["documents"][2]])
    plain, safe = score(directory / "d", RERANKER, [row, dict(row, safe_text=True)])
    assert close(values(plain), RERANKER["rows"][0]["values"][2:]) and safe["n_tokens"] > plain["n_tokens"]


# ---- steps and answers in forms of their own ----

BAD_ROWS = [
    ("skywork-prm", {"prompt": "a", "steps": ["b", "c\nd"]}, "bad_text", "steps[1]: the recipe skywork-prm ends a step with a newline"),
    ("skywork-prm", {"prompt": [{"role": "user", "content": "a"}], "steps": ["b"]}, "bad_text", "prompt: the recipe skywork-prm writes a prompt"),
    ("skywork-prm", {"problem": "a", "steps": ["b"], "system": "s"}, "bad_text", "system: the recipe skywork-prm writes nothing of this"),
    ("skywork-prm", {"prompt": "a", "response": "b"}, "bad_request", "response: the recipe skywork-prm is for rows of prompt and steps"),
    ("skywork-prm", {"prompt": "a", "steps": []}, "no_step_token", "steps: expected at least one step"),
    ("math-shepherd", {"prompt": "a", "steps": ["b ки"]}, "bad_text", "expected the step token"),
    ("math-shepherd", {"prompt": "a", "steps": ["b"], "pool": {"step_token": 5}}, "bad_request", "pool.step_token: the recipe math-shepherd"),
    ("rlhflow-prm", {"ids": [1, 2, 3]}, "bad_request", "pool.type: expected POSITIONS and the positions"),
    ("rlhflow-prm", {"text": "a"}, "bad_request", "pool.type: expected POSITIONS and the positions"),
    ("rlhflow-prm", {"prompt": "a", "steps": ["b"] * 257}, "too_long", "steps: expected at most 256 with the recipe rlhflow-prm, found 257"),
    ("rlhflow-prm", {"prompt": "a", "steps": ["b"] * 9, "truncate": True, "max_length": 50}, "too_long", "are not cut"),
    ("rlhflow-prm", {"prompt": "a", "steps": ["b"], "pool": {"type": "STEP"}}, "bad_request", "pool.type: the recipe rlhflow-prm"),
    ("eurus-rm", {"messages": [{"role": "user", "content": "a"}]}, "bad_text", "messages: the recipe eurus-rm writes a prompt and an answer that are texts; expected prompt and response, found messages"),
    ("eurus-rm", {"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "b"}]}, "bad_text", "chosen: the recipe eurus-rm writes a prompt and an answer that are texts"),
    ("eurus-rm", {"prompt": "a", "response": [{"role": "assistant", "content": "a"}]}, "bad_text", "response: the recipe eurus-rm writes an answer"),
]


@pytest.mark.parametrize("name", sorted({row[0] for row in BAD_ROWS}))
def test_rows_that_do_not_fit_a_form(directory, name):
    cases = [case for case in BAD_ROWS if case[0] == name]
    for got, (_, row, code, words) in zip(score(directory / "d", VECTORS[name], [case[1] for case in cases]), cases):
        assert got["error"] and got["error"]["code"] == code and words in got["error"]["message"], (row, got)


def test_the_token_in_front_of_the_answer(directory):
    """The positions are shown, and the same ids with them give the same bits."""
    vectors = VECTORS["rlhflow-prm"]
    row, ids = vectors["rows"][1]["row"], vectors["rows"][1]["ids"]
    first = score(directory / "d", vectors, [row])[0]
    at = [pooled["i"] for pooled in first["pooled_at"]]
    assert at[-1] == len(ids) - 3 and all(ids[k] == pooled["id"] for k, pooled in zip(at, first["pooled_at"]))
    again = score(directory / "e", vectors, [{"ids": ids, "pool": {"type": "POSITIONS", "positions": at}}])[0]
    assert again["steps"] == first["steps"]


def test_a_template_that_ends_otherwise(directory):
    """ChatML has a newline behind the last token: the third from the end is another one."""
    with Broker(directory / "d", model=LLAMA, options=["--recipe", "rlhflow-prm", "--chat-template", "chatml"]) as broker:
        with broker.client() as client:
            got = client.call("score", rows=[VECTORS["rlhflow-prm"]["rows"][0]["row"]])["rows"][0]
    assert got["error"]["code"] == "bad_text" and "ends with it and one token more" in got["error"]["message"], got


def test_a_template_that_a_recipe_does_not_use(directory):
    for option, value in (("--chat-template", "chatml"), ("--template-date", "2026-01-02")):
        done = subprocess.run([BIN / "assayd", "--model", MODELS / "recipe-eurus", "--data", directory / "d", "--recipe", "eurus-rm",
                               option, value], capture_output=True, text=True, timeout=60 * PATIENCE)
        assert done.returncode == 64 and f"{option}: expected none with this --recipe" in done.stderr, done.stderr
        done = run("check", MODELS / "recipe-eurus", "--recipe", "eurus-rm", option, value)
        assert done.returncode == 64 and f"--recipe and {option}: expected one of them" in done.stderr, done.stderr


def test_check_names_the_recipes_of_an_architecture():
    text = run("check", MODELS / "recipe-skywork").stdout
    assert "recipe         skywork-prm, the architecture's own: bos_token, the prompt" in text and "none is chosen" not in text, text
    text = run("check", MODELS / "recipe-openrlhf").stdout
    assert "recipes        none is chosen; for the architecture: openrlhf\n" in text, text
    text = run("check", MODELS / "recipe-skywork", "--recipe", "skywork-prm").stdout
    assert "recipe         skywork-prm: bos_token, the prompt" in text and "none is chosen" not in text, text


OWN = ("skywork-prm", "eurus-rm")


@pytest.mark.parametrize("name", OWN)
def test_a_recipe_that_is_taken_by_itself(directory, name):
    """Its rows are written and scored as with --recipe. All else is as without: a text has any pooling, and no mode says a recipe."""
    vectors = VECTORS[name]
    rows = [row["row"] for row in vectors["rows"]]
    other = {"text": "a\n", "pool": {"type": "MEAN", "activation": "none"}}
    wrong = [{**rows[0], "pool": {"activation": "none" if name == OWN[0] else "sigmoid"}}, {**rows[0], "add_generation_prompt": True},
             {"query": "a", "document": "b"}]
    with Broker(directory / "d", model=MODELS / vectors["model"]) as broker, broker.client() as client:
        assert client.call("hello")["model"]["recipe"] is None and "recipe" not in client.call("hello")["mode"]
        found = client.call("score", rows=rows + [other] + wrong, timeout_ms=60000)["rows"]
    assert found[len(rows)]["error"] is None
    for got, words in zip(found[len(rows) + 1:], ("pool.activation: the recipe " + name, "add_generation_prompt: the recipe " + name, "query: ")):
        assert got["error"]["code"] == "bad_request" and got["error"]["message"].startswith(words), got
    for got, same, row in zip(found, score(directory / "e", vectors, rows), vectors["rows"]):
        assert close(result(got), row["values"]) and result(got) == result(same), (got, same)
    code, shown = tokenize(directory, MODELS / vectors["model"], rows)
    assert code == 0 and [flat(line["ids"]) for line in shown] == [row["ids"] for row in vectors["rows"]]


@pytest.mark.parametrize("option, value", [("--chat-template", "chatml"), ("--template-date", "2026-01-02"), ("--tail", "strip")])
def test_options_beside_a_recipe_that_is_taken_by_itself(directory, option, value):
    done = subprocess.run([BIN / "assayd", "--model", MODELS / "recipe-eurus", "--data", directory / "d", option, value], capture_output=True,
                          text=True, timeout=60 * PATIENCE)
    words = f"{option}: expected none with EurusRewardModel: its recipe eurus-rm writes its own text"
    assert done.returncode == 78 and words in done.stderr, done.stderr
    done = run("check", MODELS / "recipe-eurus", option, value)
    assert done.returncode == 78 and words in done.stdout, done


def test_steps_need_their_recipe_alone(directory):
    """Rows that an architecture's own recipe is not for are as without it."""
    answer, text = {"prompt": "a", "response": "b\nc"}, "<|endoftext|>Q\na\nb\n"
    others = [answer, {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, {"text": text},
              {"ids": [270, 198, 48, 198]}, {"responses": ["a\n", "b"], "prompt": "c"}]
    with Broker(directory / "d", model=MODELS / "recipe-skywork") as broker, broker.client() as client:
        assert client.call("hello")["model"]["pooling"]["step_token"] is None
        pooled, asked, steps, *refused = client.call("score", rows=[
            {**answer, "pool": {"type": "LAST", "activation": "none"}}, {"text": text, "pool": {"step_token": 198}},
            {"prompt": "Q", "steps": ["a", "b"]}, *others])["rows"]
    assert pooled["error"] is None, pooled
    assert len(asked["steps"]) == 3 and asked["steps"][1:] == steps["steps"], (asked, steps)
    for row in refused:  # the newlines of a template, or of a prompt, are no steps
        assert row["error"]["code"] == "no_step_token" and "expected pool.step_token" in row["error"]["message"], row


# ---- how a conversation ends ----

def test_tails_decide_which_token_is_read(directory):
    row = {"prompt": "1 + 1 = ?", "response": "2"}
    demo, found, texts = MODELS / "demo-reward", {}, {}
    for tail in ("none", "strip", "strip,eos"):
        with Broker(directory / tail.replace(",", "-"), model=demo, options=["--tail", tail]) as broker, broker.client() as client:
            assert (f" tail={tail}" in client.call("hello")["mode"]) == (tail != "none")
            text = "<|im_start|>user\n1 + 1 = ?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>" + ("\n" if tail == "none" else "")
            found[tail], texts[tail], safe, prompt, pair = client.call("score", rows=[
                row, {"text": text}, dict(row, safe_text=True, response="2\n"), dict(row, add_generation_prompt=True),
                {"chosen": "a", "rejected": "b"}])["rows"]
            assert safe["error"] is None and safe["n_tokens"] == found[tail]["n_tokens"] + 1
            assert (prompt["error"] is None) == (pair["error"] is None) == (tail == "none"), (prompt, pair)
    newline, end = 198, 297
    assert [found[tail]["pooled_at"][0]["id"] for tail in found] == [newline, end, end]
    assert all(found[tail]["score"] == texts[tail]["score"] for tail in found) and found["none"]["score"] != found["strip"]["score"]


def test_what_openrlhf_puts_at_the_end_stays(directory):
    """A row that is cut ends in eos_token all the same, as "avoid EOS_token truncation" has it."""
    vectors = VECTORS["openrlhf"]
    row, ids = vectors["rows"][0]["row"], vectors["rows"][0]["ids"]
    whole, cut, same, pair = score(directory / "d", vectors, [
        row, dict(row, truncate=True, max_length=20), {"ids": ids[:19] + ids[-1:]}, {"chosen": "a", "rejected": "b"}])
    assert whole["pooled_at"] == [{"i": len(ids) - 1, "id": ids[-1]}] and cut["score"] == same["score"] and cut["n_tokens"] == 20
    assert "chosen: expected messages, or answers to a prompt" in pair["error"]["message"], pair


# As DeepSeek-R1's: the generation prompt begins with what an answer that was given does not have.
THINKS = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{{ '<think>' if thinks }}{% endif %}"""


def test_openrlhf_with_a_template_that_is_given(directory):
    """--chat-template is OpenRLHF's --tokenizer_chat_template. It writes the prompt by itself, with a generation prompt."""
    vectors, ask, answer = VECTORS["openrlhf"], {"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}
    rows = [{"prompt": "1 + 1?", "response": "2"}, {"prompt": [ask], "responses": [[answer], "2"]}, {"messages": [ask, answer]},
            {"prompt": "1 + 1?", "messages": [ask, answer]}]
    (directory / "t.jinja").write_text(THINKS)
    template = ["--chat-template", directory / "t.jinja"]
    text = "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|> <|endoftext|>"
    one, several, whole, same, expected = score(directory / "a", vectors, rows + [{"text": text, "add_special_tokens": False}], template)
    assert one["score"] == whole["score"] == same["score"] == expected["score"] and several["scores"] == [expected["score"]] * 2
    thinks = [{**row, "chat_template_kwargs": {"thinks": True}} for row in rows]
    one, several, whole, same = score(directory / "b", vectors, thinks, template)
    for got, field in ((one, "response"), (several, "responses[0]")):
        assert got["error"]["code"] == "bad_text" and got["error"]["message"].startswith(f"{field}: the recipe openrlhf writes the prompt"), got
    assert whole["score"] == same["score"] == expected["score"]
    named, = score(directory / "c", vectors, rows[:1], ["--chat-template", "chatml"])
    assert named["score"] == expected["score"]


@pytest.mark.parametrize("options, words", [(["--tail", "eos"], "--tail: expected none, strip or strip,eos, found 'eos'"),
                                            (["--tail", "strip", "--recipe", "nemotron-reward"], "--tail: expected none with --recipe")])
def test_tails_that_are_none(directory, options, words):
    done = subprocess.run([BIN / "assayd", "--model", LLAMA, "--data", directory / "d", *options], capture_output=True, text=True,
                          timeout=60 * PATIENCE)
    assert done.returncode == 64 and words in done.stderr, done.stderr
