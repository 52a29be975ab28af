"""Sessions: rows that grow, fork and are scored, in random order, with a KV cache that is too small and ranks that die. Each score has the
bits of its row sent whole, which a model of the sessions in Python knows."""
import contextlib
import copy
import json
import os
import random
import signal

import msgpack
import pytest
from harness import MODELS, PATIENCE, Broker, Refused, ids_bytes, wait_until
from test_kv_cache import kill_rank
from test_sharing import OF_CLASSES, POOLS

WORDS = ["3", " + ", "4", " = ", "7", " so", " 8", "\n", " the sum", " is", " é", " <|im_end|>"]


def extended(row, more):
    """The row with what `more` adds: the protocol's words, in Python."""
    row = copy.deepcopy(row)
    for key, value in more.items():
        row[key] = extended(row[key], value) if key == "pool" else row[key] + value
    return row


# ---- forms of rows: how one begins, and what it may get ----

def some_ids(rng, least, most):
    return [rng.randrange(20, 250) for _ in range(rng.randint(least, most))] + [3]


def text(rng, most=12):
    return "".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))


def reply(rng):
    return {"role": rng.choice(["assistant", "user"]), "content": text(rng)}


def of_ids(pools, prompts=random.Random(7)):
    known = [some_ids(prompts, 40, 200) for _ in range(3)]

    def begin(rng):
        pool, ids, form = rng.choice(pools), rng.choice(known) + some_ids(rng, 0, 20), rng.choice([ids_bytes, list])
        return {"ids": form(ids), "pool": pool, **rng.choice([{}, {"truncate": True, "max_length": 300}])}

    def more(rng, row):
        ids = some_ids(rng, 0, 30)
        found = {"ids": ids_bytes(ids) if isinstance(row["ids"], bytes) else ids}
        if "positions" in row.get("pool", {}) and rng.random() < 0.5:
            found["pool"] = {"positions": [rng.randrange(40)]}
        return found

    return begin, more


SHAPES = {
    "text": (lambda rng: {"text": text(rng, 60)}, lambda rng, row: {"text": text(rng)}),
    "messages": (lambda rng: {"messages": [{"role": "user", "content": text(rng, 60)}]}, lambda rng, row: {"messages": [reply(rng)]}),
    "response": (lambda rng: {"prompt": "3 + 4 = ?" * 9, "response": text(rng)}, lambda rng, row: {"response": text(rng)}),
    "conversation": (lambda rng: {"prompt": [{"role": "user", "content": text(rng, 60)}], "completion": [{"role": "assistant", "content": "7"}]},
                     lambda rng, row: {"completion": [reply(rng)]}),
    "responses": (lambda rng: {"prompt": "3 + 4 = ?" * 9, "responses": [text(rng)]}, lambda rng, row: {"responses": [text(rng), text(rng)]}),
    "pair": (lambda rng: {"prompt": "3 + 4 = ?", "chosen": text(rng), "rejected": text(rng)},
             lambda rng, row: rng.choice([{"chosen": text(rng)}, {"rejected": text(rng)}, {"rejected": text(rng), "chosen": text(rng)}])),
    "steps": (lambda rng: {"question": "3 + 4 = ?" * 9, "steps": [text(rng)], "system": "Be brief."},
              lambda rng, row: {"steps": [text(rng) for _ in range(rng.randint(0, 2))]}),
    "document": (lambda rng: {"query": "sums" * 9, "document": text(rng)}, lambda rng, row: {"document": text(rng)}),
    "documents": (lambda rng: {"query": "sums" * 9, "documents": [text(rng)], "instruction": "Judge."},
                  lambda rng, row: {"documents": [text(rng)]}),
}


def forms(*names):
    """One form that is each of them in turns."""
    def begin(rng):
        return SHAPES[rng.choice(names)][0](rng)

    def more(rng, row):
        name = next(n for n in names if set(SHAPES[n][1](random.Random(0), row)) <= set(row))
        return SHAPES[name][1](rng, row)

    return begin, more


# ---- a random walk ----

class Walk:
    """Sessions of a broker, and the row that each stands for."""

    def __init__(self, client, form, seed):
        self.client, (self.begin, self.more), self.rng = client, form, random.Random(seed)
        self.rows, self.scored = {}, []

    def open(self):
        row = self.begin(self.rng)
        self.rows[self.client.call("open", row=row)["session"]] = row

    def append(self):
        names = self.rng.sample(sorted(self.rows), self.rng.randint(1, len(self.rows)))
        more = [self.more(self.rng, self.rows[name]) for name in names]
        now = self.client.call("append", sessions=names, more=more)["sessions"]
        if self.rng.random() < 0.3:  # as if no reply had come
            assert self.client.call("append", sessions=names, more=more)["sessions"] == now
        for name, new, what in zip(names, now, more):
            self.rows[new] = extended(self.rows.pop(name), what)

    def fork(self):
        name, n = self.rng.choice(sorted(self.rows)), self.rng.randint(1, 4)
        for new in self.client.call("fork", session=name, n=n)["sessions"]:
            self.rows[new] = self.rows[name]

    def close(self):
        names = self.rng.sample(sorted(self.rows), len(self.rows) // 3)
        if names:
            assert self.client.call("close", sessions=names)["closed"] == len(names)
        for name in names:
            del self.rows[name]

    def score(self):
        names = self.rng.choices(sorted(self.rows), k=self.rng.randint(1, 12))
        found = self.client.call("score", sessions=names, timeout=120)["rows"]
        assert [row["id"] for row in found] == names and [row["i"] for row in found] == list(range(len(names)))
        self.scored += [(self.rows[name], row) for name, row in zip(names, found)]

    def go(self, steps, between=None):
        self.open()
        for k in range(steps):
            getattr(self, self.rng.choice(["append", "append", "fork", "score", "score", "open", "close"] if len(self.rows) < 40 else ["close"]))()
            if not self.rows:
                self.open()
            if between:
                between(k)
        self.score()

    def compare(self, directory, **how):
        """Every score that was given, with that of the row sent whole to a broker that reuses nothing."""
        options = [*how.pop("options", ()), "--no-prefix-sharing", "--no-dedupe"]
        with Broker(directory / "whole", options=options, **how) as broker, broker.client() as client:
            client.submit("whole", [row for row, _ in self.scored])
            whole = sorted(client.results("whole", timeout=300), key=lambda row: row["i"])
        for (row, found), expected in zip(self.scored, whole, strict=True):
            assert without_names(found) == without_names(expected), row
        return whole


def without_names(result):
    return {key: value for key, value in result.items() if key not in ("i", "id")}


def cache_of(model, tokens, ranks=1):
    """Bytes for the tokens in each of the ranks that share them, by heads or by layers."""
    c = json.loads((MODELS / model / "config.json").read_text())
    head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    return tokens * 2 * c["num_hidden_layers"] * c["num_key_value_heads"] * head_dim * 4 // ranks


WALKS = {
    "ids": ("process", of_ids(POOLS + OF_CLASSES), ["--tp", 2], 2),
    "ids-labels": ("seqcls-3-labels", of_ids(POOLS + OF_CLASSES), ["--replicas", 2], 1),
    "ids-bf16": ("window", of_ids(POOLS), ["--dtype", "bf16"], 1),
    "ids-stages": ("process", of_ids(POOLS + OF_CLASSES), ["--pp", 2], 2),
    "ids-chunks": ("reward", of_ids(POOLS), ["--max-batch-tokens", 96], 1),
    "texts": ("demo-reward", forms("text", "messages", "response", "conversation", "responses", "pair"), ["--replicas", 2], 1),
    "steps": ("demo-process", forms("steps"), ["--tp", 2], 2),
    "documents": ("recipe-qwen3", forms("document", "documents"), ["--recipe", "qwen3-reranker"], 1),
}


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("tokens", [640, 1 << 16], ids=["evicts", "keeps"])
def test_same_bits_as_the_row_sent_whole(directory, name, tokens):
    model, form, options, ranks = WALKS[name]
    options = ["--max-batch-tokens", 512, *options]
    with Broker(directory / "d", model=MODELS / model, options=[*options, "--kv-cache", cache_of(model, tokens, ranks)]) as broker, \
            broker.client() as client:
        walk = Walk(client, form, seed=f"{name} {tokens}")
        walk.go(60)
        info = client.call("info")
        assert info["sessions"] == len(walk.rows)
        assert sum(worker["reused"] for worker in info["workers"]) > 0
        if tokens == 640:  # full, so that blocks make room
            assert max(worker["kv_bytes"] for worker in info["workers"]) > 0.9 * cache_of(model, tokens, ranks)
    whole = walk.compare(directory, model=MODELS / model, options=options)
    failed = [row["error"]["code"] for row in whole if row["error"] is not None]
    assert len(whole) > 60 and len(failed) < len(whole) // 4, failed


def test_same_bits_after_ranks_are_killed(directory):
    model, form, options, ranks = WALKS["ids"]
    with Broker(directory / "d", model=MODELS / model, options=[*options, "--kv-cache", cache_of(model, 1 << 14, ranks)]) as broker, \
            broker.client() as client:
        walk = Walk(client, form, seed=5)

        def between(k):
            if k % 10 == 5:
                kill_rank(client, k // 10 % 2)
            elif k % 10 == 9:  # dies while it computes, or at rest
                os.kill(client.call("info")["workers"][k // 10 % 2]["pid"], signal.SIGKILL)
        walk.go(40, between)
        assert client.call("info")["workers"][0]["restarts"] >= 4
    walk.compare(directory, model=MODELS / model, options=options)


def test_sixty_four_beams(directory):
    """On one prompt, a quarter goes on each time, four ways; far fewer tokens are computed than scored. Rows of more than 160 kB together
    are prepared by a thread."""
    rng, model = random.Random(4), MODELS / "process"
    prompt = [rng.randrange(20, 250) for _ in range(640)]
    with Broker(directory / "d", model=model, options=["--kv-cache", "64M"]) as broker, broker.client() as client:
        walk = Walk(client, of_ids(POOLS), seed=1)
        root = client.call("open", row={"ids": ids_bytes(prompt), "pool": {"type": "STEP", "step_token": 3}})["session"]
        rows = {name: prompt for name in client.call("fork", session=root, n=64)["sessions"]}
        for _ in range(5):
            more = [some_ids(rng, 15, 15) for _ in rows]
            now = client.call("append", sessions=list(rows), more=[{"ids": ids_bytes(ids)} for ids in more])["sessions"]
            rows = {new: ids + what for new, ids, what in zip(now, rows.values(), more)}
            found = client.call("score", sessions=list(rows), timeout=120)["rows"]
            assert [row["id"] for row in found] == list(rows)
            walk.scored += [({"ids": ids_bytes(ids), "pool": {"type": "STEP", "step_token": 3}}, row) for ids, row in zip(rows.values(), found)]
            best = sorted(found, key=lambda row: row["last"])[-16:]
            kept = {name: rows[row["id"]] for row in best for name in client.call("fork", session=row["id"], n=4)["sessions"]}
            assert client.call("close", sessions=list(rows))["closed"] == 64
            rows = kept
        info = client.call("info")
        assert info["sessions"] == 65
        worker = info["workers"][0]
        scored = sum(row["n_tokens"] for _, row in walk.scored)
        assert scored == 64 * sum(640 + 16 * k for k in range(1, 6))
        assert worker["tokens"] - worker["reused"] < scored / 20, worker
    walk.compare(directory, model=model)


# ---- what each operation says ----

@pytest.fixture(scope="module")
def served():
    import pathlib
    import shutil
    import tempfile
    path = tempfile.mkdtemp(prefix="assay-")
    with Broker(pathlib.Path(path) / "d", model=MODELS / "demo-reward", options=["--session-bytes", "1M", "--max-message-bytes", 1 << 19]) as broker:
        yield broker
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def client(served):
    with served.client() as c:
        yield c
        assert c.call("info")["sessions"] == 0, "a test left sessions"


def refused(client, code, field, op, **fields):
    with pytest.raises(Refused) as refusal:
        client.call(op, **fields)
    assert (refusal.value.code, refusal.value.err.get("field")) == (code, field), refusal.value
    return refusal.value.err["message"]


def test_refusals(client):
    name = client.call("open", row={"prompt": "3 + 4", "response": "7"})["session"]
    assert client.call("append", sessions=[name], more=[{"response": "."}])["sessions"] == [name[:-1] + "1"]
    assert "after its 1 append" in refused(client, "wrong_state", "sessions[0]", "score", sessions=[name])
    refused(client, "wrong_state", "session", "fork", session=name, n=1)
    assert "open it again with its whole row" in refused(client, "unknown_session", "sessions[1]", "score", sessions=[name[:-1] + "1", "x"])
    refused(client, "bad_request", "more[0].prompt", "append", sessions=[name[:-1] + "1"], more=[{"prompt": "!"}])
    refused(client, "bad_request", "more[0].text", "append", sessions=[name[:-1] + "1"], more=[{"text": "!"}])
    refused(client, "bad_request", "more[0].response", "append", sessions=[name[:-1] + "1"], more=[{"response": [{"role": "user", "content": ""}]}])
    refused(client, "bad_request", "row.id", "open", row={"ids": [1], "id": 1})
    refused(client, "bad_request", "sessions", "score", sessions=[name], rows=[{"ids": [1]}])
    assert client.call("close", sessions=[name, name, "x"])["closed"] == 1
    refused(client, "unknown_session", "session", "fork", session=name, n=1)


def test_a_session_s_error_is_its_row_s(client):
    name = client.call("open", row={"ids": [1] * 1000})["session"]
    long = client.call("append", sessions=[name], more=[{"ids": [1] * 100}])["sessions"][0]
    short = client.call("open", row={"ids": [1]})["session"]
    found = client.call("score", sessions=[long, short])["rows"]
    assert found[0]["error"]["code"] == "too_long" and found[0]["score"] is None and found[1]["error"] is None
    cut = client.call("score", sessions=[long], truncate=True, max_length=1)["rows"]
    assert without_names(cut[0]) == without_names(found[1])
    client.call("close", sessions=[long, short])
    raw = msgpack.packb({"v": 1, "op": "open", "id": client.number, "row": {"text": "a\ud800"}}, unicode_errors="surrogatepass")
    name = client.call("append", sessions=[client.raw(raw)["session"]], more=[{"text": "b"}])["sessions"][0]
    assert client.call("score", sessions=[name])["rows"][0]["error"]["code"] == "bad_text"
    client.call("close", sessions=[name])


def test_a_session_as_large_as_a_message(directory):
    """It can be scored, or is not taken."""
    with Broker(directory / "d", model=MODELS / "demo-reward", options=["--max-message-bytes", 100_000]) as broker, broker.client() as client:
        assert "found one of 99911" in refused(client, "too_large", "row", "open", row={"text": "x" * 99_900})
        name = client.call("open", row={"text": "x" * 99_400})["session"]
        refused(client, "too_large", "more[0]", "append", sessions=[name], more=[{"text": "x" * 100}])
        name = client.call("append", sessions=[name], more=[{"text": "x" * 50}])["sessions"][0]
        assert client.call("score", sessions=[name])["rows"][0]["error"]["code"] == "too_long"


def test_bounds(client):
    limits = client.call("hello")["limits"]
    assert limits["max_session_bytes"] == 1 << 20 and limits["session_idle_ms"] == 3600000
    name = client.call("open", row={"text": "x" * 200000})["session"]
    assert "--session-bytes" in refused(client, "too_large", "n", "fork", session=name, n=5)
    some = client.call("fork", session=name, n=3)["sessions"]
    info = client.call("info")
    assert info["sessions"] == 4 and 800000 < info["session_bytes"] < 810000
    assert "in a message" not in refused(client, "too_large", "sessions", "score", sessions=[name, *some])
    assert client.call("score", sessions=some[:2])["rows"][0]["error"]["code"] == "too_long"
    refused(client, "too_large", "more[0]", "append", sessions=[name], more=[{"text": "x" * 300000}])
    client.call("close", sessions=some)
    name = client.call("append", sessions=[name], more=[{"text": "x" * 300000}])["sessions"][0]
    refused(client, "too_large", "more[0]", "append", sessions=[name], more=[{"text": "x" * 300000}])  # too long for a message
    client.call("close", sessions=[name])
    assert client.call("info")["session_bytes"] == 0


def test_what_a_connection_sends_goes_in_its_order(client):
    """An append and the score behind it, sent without waiting. Both are large, so threads prepare them."""
    name = client.call("open", row={"text": "a"})["session"]
    names = [name[:-1] + str(k) for k in range(4)]
    more = "b" * 100000
    for k in range(3):
        for body in ({"op": "append", "sessions": [names[k]], "more": [{"text": more}]}, {"op": "score", "sessions": [names[k + 1]]}):
            client.socket.send(msgpack.packb({"v": 1, **body}))
    replies = [client.receive() for _ in range(6)]
    assert all(reply["ok"] for reply in replies), replies
    found = {row["id"]: row["error"]["message"] for reply in replies for row in reply.get("rows", ())}
    assert list(found) == names[1:] and len(set(found.values())) == 3
    client.call("close", sessions=[name])


def test_a_score_under_a_key(client):
    name = client.call("open", row={"ids": [1, 2, 3]})["session"]
    first = client.call("score", sessions=[name], key="mine")
    assert client.call("score", sessions=[name], key="mine")["job"] == first["job"]
    assert client.results("mine") == first["rows"] and first["rows"][0]["id"] == name
    other = client.call("append", sessions=[name], more=[{"ids": [4]}])["sessions"]
    refused(client, "key_reused", "chunk", "score", sessions=other, key="mine")
    client.call("close", sessions=other)


def test_a_restart_forgets_sessions(directory):
    with Broker(directory / "d") as broker:
        with broker.client() as client:
            name = client.call("open", row={"ids": [1, 2, 3]})["session"]
            before = client.call("score", sessions=[name], key="k")["rows"]
        broker.kill9()
        broker.start()
        with broker.client() as client:
            refused(client, "unknown_session", "sessions[0]", "score", sessions=[name])
            assert client.results("k") == before
            again = client.call("open", row={"ids": [1, 2, 3]})["session"]
            assert again != name
            assert without_names(client.call("score", sessions=[again])["rows"][0]) == without_names(before[0])


def test_names_are_each_client_s_own(served):
    """Two clients that do the same do not meet."""
    with served.client() as a, served.client() as b:
        names = [c.call("open", row={"ids": [1, 2, 3]})["session"] for c in (a, b)]
        assert names[0] != names[1]
        a.call("append", sessions=[names[0]], more=[{"ids": [4]}])
        assert b.call("score", sessions=[names[1]])["rows"][0]["n_tokens"] == 3
        assert a.call("close", sessions=names)["closed"] == 2


def test_scores_beyond_the_room_are_told_to_come_again(served):
    """Few bytes ask for many rows: each of these 80 clients for 450 kB, where 18 MB have room. What is taken is scored."""
    with served.client() as client, contextlib.ExitStack() as stack:
        name = client.call("open", row={"text": "x" * 450000})["session"]
        clients = [stack.enter_context(served.client()) for _ in range(80)]
        for c in clients:
            c.call("hello")
        for c in clients:
            c.socket.send(msgpack.packb({"v": 1, "op": "score", "sessions": [name]}))
        replies = [c.receive(60 * PATIENCE) for c in clients]
        refusals = [reply["err"] for reply in replies if not reply["ok"]]
        assert all(err["code"] == "queue_full" and err["retry_after_ms"] and "handled yet" in err["message"] for err in refusals), refusals
        assert 0 < len(refusals) < 50
        wait_until(lambda: client.call("info")["received_bytes"] == 0)
        client.call("close", sessions=[name])
