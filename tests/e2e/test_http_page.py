"""The page at / and the data behind it: its files, what may stand in them, who may see and change what, numbers that are those of the
database, and a broker that never waits for it. Names and ids are markup here, wherever somebody may choose them."""
import html.parser
import json
import os
import random
import re
import signal
import sqlite3
import time

import pytest
from harness import MODELS, PATIENCE, ROOT, Broker, Refused, wait_until
from http_harness import Http

MODEL = MODELS / "demo-reward"
PAGE = ROOT / "broker/http/page"
MARKUP = '<img src=x onerror="document.title=1"></td><script>alert(1)</script>&amp;\'"'
VIEWER, ADMIN = "viewer-0123456789abcdef", "admin-0123456789abcdef"


class Page(Http):
    def look(self, path, key=ADMIN, status=200):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        found, kinds, text = self.ask("GET", path, None, headers)
        assert found == status, text
        assert kinds["content-type"] == "application/json"
        return json.loads(text)

    def change(self, job, action, key=ADMIN):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        status, _, text = self.ask("POST", f"/api/jobs/{job}/{action}", "", headers)
        return status, json.loads(text)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("page")
    keys = path / "keys"
    keys.write_text(f"viewer {VIEWER}\nops {ADMIN} admin\n")
    keys.chmod(0o600)
    with Broker(path / "d", model=MODEL) as broker, broker.client() as client:
        http = Page(path, broker, ["--api-keys", keys])
        http.start(ready=True)
        yield http, client, broker
        http.stop()


def random_rows(n, seed=1):
    r = random.Random(seed)
    return [{"id": i, "ids": [r.randrange(5, 300) for _ in range(8)]} for i in range(n)]


class Elements(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.all = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))


# ---- its files ----

def test_its_files_need_no_key_and_run_nothing_of_others(served):
    """No script, style or handler stands in the page, and the policy would let none run."""
    for path, kind, name in (("/", "text/html", "page.html"), ("/page.js", "text/javascript", "page.js"), ("/page.css", "text/css", "page.css")):
        status, headers, text = served[0].ask("GET", path)
        assert status == 200 and headers["content-type"] == kind + "; charset=utf-8" and text == (PAGE / name).read_text()
        policy = dict(one.strip().split(" ", 1) for one in headers["content-security-policy"].split(";"))
        assert policy == {"default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'", "img-src": "data:",
                          "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"}
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store" and headers["referrer-policy"] == "no-referrer"
    elements = Elements((PAGE / "page.html").read_text()).all
    assert [a for t, a in elements if t == "script"] == [{"src": "/page.js", "defer": None}] and not [t for t, _ in elements if t == "style"]
    assert not [name for _, a in elements for name in a if name.startswith("on") or name == "style"]
    script = (PAGE / "page.js").read_text()
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|DOMParser|javascript:|\.href\s*=", script)
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids)) and set(re.findall(r"\$\(\"([\w-]+)\"\)", script)) <= set(ids)
    assert {a["aria-controls"] for _, a in elements if a.get("class") == "sql"} <= set(ids)


def test_every_panels_sql_runs(served):
    """As printed, by a reader, on the broker's database; `:job` stands for a number."""
    http, client, broker = served
    client.submit("sql", random_rows(5) + [{"ids": []}])
    client.results("sql")
    statements = re.findall(r"<pre id=\"sql-([\w-]+)\" hidden>(.*?)</pre>", (PAGE / "page.html").read_text(), re.S)
    assert len(statements) == 9
    with sqlite3.connect(f"file:{broker.data}/assay.db?mode=ro", uri=True) as db:
        for name, sql in statements:
            found = db.execute(html.unescape(sql).replace(":job", str(client.call("status", job="sql")["job"]))).fetchall()
            assert found or name == "ranks", name


# ---- its data ----

def test_overview(served):
    http, client, _ = served
    found, info = http.look("/api/overview.json"), client.call("info")
    assert found["info"]["pid"] == info["pid"] and set(found["info"]) >= set(info) and found["may_change"] is True
    assert set(found["http"]) == {"running", "waiting", "memory_bytes"} and found["http"]["memory_bytes"] > 1e6
    assert http.look("/api/overview.json", VIEWER)["may_change"] is False


def test_jobs_with_markup_in_every_field(served):
    """It comes as it is, as JSON: what makes it text is the page's script, which knows nothing else."""
    http, client, broker = served
    job = client.submit(MARKUP, [{"id": MARKUP, "ids": []}, {"id": MARKUP, "ids": [10**7]}, {"id": 7, "ids": [5, 6]}])["job"]
    client.results(MARKUP)
    wait_until(lambda: [one for one in http.look("/api/jobs.json")["newest"] if one["job"] == job and one["state"] == "done"])
    [found] = [one for one in http.look("/api/jobs.json")["newest"] if one["job"] == job]
    status = client.call("status", job=job)
    assert found["key"] == MARKUP and {k: found[k] for k in ("done", "failed", "total", "priority")} == {k: status[k] for k in ("done", "failed", "total", "priority")}
    failed = http.look(f"/api/jobs/{job}/failed.json")
    assert [(row["i"], row["id"], row["code"]) for row in failed["rows"]] == [(0, MARKUP, "no_tokens"), (1, MARKUP, "bad_token")] and failed["done"] is True
    assert [row["message"] for row in failed["rows"]] == [m for [m] in broker.sql("select message from errors where job = ? order by i", job)]


def test_unfinished_jobs_are_there_however_many_are_newer(served):
    http, client, _ = served
    client.submit("old-paused", random_rows(3, 5), seal=False)
    client.call("pause", job="old-paused")
    for k in range(70):
        client.submit(f"newer-{k}", [{"ids": []}])
    wait_until(lambda: "newer-69" in [job["key"] for job in http.look("/api/jobs.json")["newest"]])
    found = wait_until(lambda: (page := http.look("/api/jobs.json")) and len(page["newest"]) == 60 and page)  # none was cut off by its deadline
    assert "old-paused" not in [job["key"] for job in found["newest"]] and "old-paused" in [job["key"] for job in found["paused"]]
    numbers = [job["job"] for job in found["newest"]]
    assert numbers == sorted(numbers, reverse=True)


def test_scores_of_a_small_job_are_all_of_them(served):
    http, client, broker = served
    job = client.submit("small", random_rows(300, 2) + [{"ids": []}])["job"]
    client.results("small")
    wait_until(lambda: http.look(f"/api/jobs/{job}/scores.json")["end"])  # a busy broker gives a part
    found = http.look(f"/api/jobs/{job}/scores.json")
    assert found["end"] is True and found["done"] == 301 and found["others"] == 1
    wanted = broker.sql("select cursor, round(finished_ts * 1000), score from results where job = ? and score is not null order by cursor", job)
    assert sorted((c, ms) for c, ms, _ in found["scores"]) == [(c, ms) for c, ms, _ in wanted]
    assert [v for *_, v in sorted(found["scores"])] == pytest.approx([v for *_, v in wanted], rel=1e-6)


def test_scores_of_a_large_job_are_spread_over_it(served):
    """A sample of at most 1,024 rows, or as many as there is time for: any part of the job has its share, so that mean and extent are near the job's."""
    http, client, broker = served
    some = random_rows(2000, 3)
    for k in range(10):
        job = client.submit("large", [{"ids": some[(7 * i + k) % 2000]["ids"]} for i in range(4000)], chunk=k, seal=k == 9)["job"]
    wait_until(lambda: client.call("status", job=job)["done"] == 40000, 120)
    began = time.monotonic()
    found = http.look(f"/api/jobs/{job}/scores.json")
    assert time.monotonic() - began < 0.5 * PATIENCE
    cursors, values = [c for c, *_ in found["scores"]], [v for *_, v in found["scores"]]
    assert 50 <= len(values) == len(set(cursors)) <= 1024 and found["done"] == 40000
    per_part = [sum(1 for c in cursors if k * 4000 < c <= (k + 1) * 4000) for k in range(10)]
    assert all(abs(n - len(values) / 10) <= 4 for n in per_part), per_part
    [(mean, low, high)] = broker.sql("select avg(score), min(score), max(score) from results where job = ?", job)
    assert abs(sum(values) / len(values) - mean) < 0.1 * (high - low)
    by_cursor = dict(broker.sql("select cursor, score from results where job = ?", job))
    assert all(by_cursor[c] == pytest.approx(v, rel=1e-6) for c, _, v in found["scores"])


def test_a_sample_is_all_of_a_small_job_whatever_its_size(served):
    """In parts, each result once; and none of a job without results."""
    client = served[1]
    for n in (1, 2, 3, 7, 8, 9, 1023, 1024, 1025):
        job = client.submit(f"of-{n}", [{"ids": [5, 6, 7 + i % 9]} for i in range(n)])["job"]
        wait_until(lambda: client.call("status", job=job)["done"] == n)
        cursors, after, end = [], 0, False
        while not end:
            page = client.call("sample", job=job, after=after, limit=300)
            cursors, after, end = cursors + [c for c, *_ in page["scores"]], page["next"], page["end"]
        assert len(cursors) == len(set(cursors)) == min(n, 1024) and set(cursors) <= set(range(1, n + 1))
    client.submit("of-none", None)
    assert client.call("sample", job="of-none") | {"id": 0} == {"v": 1, "id": 0, "ok": True, "done": 0, "next": 0, "end": True, "others": 0, "scores": []}


def test_scores_of_responses(served):
    http, client, _ = served
    job = client.submit("responses", [{"prompt": "3 + 4 = ?", "responses": ["7", "8", "no"]}, {"text": "3 + 4 = 7", "pool": {"type": "ALL"}}])["job"]
    rows = {row["i"]: row for row in client.results("responses")}
    found = http.look(f"/api/jobs/{job}/scores.json")
    assert [v for *_, v in found["scores"]] == pytest.approx(rows[0]["scores"], rel=1e-6) and found["others"] == 1


def test_throughput(served):
    http, client, broker = served
    wait_until(lambda: not broker.sql("select 1 from jobs where state in ('running', 'queued')"))
    time.sleep(1.1)  # a reply is kept for a second
    found = http.look("/api/throughput.json")
    assert found["minutes"] == [[int(1000 * ts), rows, tokens] for ts, rows, tokens in broker.sql("select minute_ts, rows, tokens from throughput order by 1")]
    assert abs(found["now_ms"] / 1000 - time.time()) < 60


# ---- who may ----

def test_keys(served):
    http, client, _ = served
    job = client.submit("keys", random_rows(2, 9), seal=False)["job"]
    for path in ("/api/overview.json", "/api/jobs.json", "/api/throughput.json", f"/api/jobs/{job}/scores.json", f"/api/jobs/{job}/failed.json"):
        assert http.look(path, None, 401)["error"]["code"] == 401 and http.look(path, "wrong-0123456789abcdef", 401)
        assert http.look(path, VIEWER)
    for action in ("pause", "resume", "cancel", "retry"):
        assert http.change(job, action, None)[0] == 401
        status, reply = http.change(job, action, VIEWER)
        assert status == 403 and "admin" in reply["error"]["message"]
    assert client.call("status", job=job)["state"] == "open"


def test_changes(served):
    http, client, _ = served
    job = client.submit("changes", random_rows(2, 10) + [{"ids": []}], seal=False)["job"]
    for action, state in (("pause", "paused"), ("pause", "paused"), ("resume", "open"), ("retry", "open"), ("cancel", "cancelled")):
        status, reply = http.change(job, action)
        assert (status, reply["state"]) == (200, state) and client.call("status", job=job)["state"] == state
        assert [one["state"] for one in http.look("/api/jobs.json")["newest"] if one["job"] == job] == [state]  # nothing kept from before
    status, reply = http.change(job, "resume")
    assert status == 409 and "cancelled" in reply["error"]["message"]


def test_what_is_refused(served):
    http, client, _ = served
    for path in ("/api/jobs/99999999/scores.json", "/api/jobs/sql/failed.json", "/api/jobs/-1/scores.json", "/api/jobs/99999999999999999999/failed.json", "/api/none.json", "/page.html"):
        assert http.look(path, status=404)["error"]["code"] == 404
    assert http.change(99999999, "pause")[0] == 404
    admin = {"Authorization": f"Bearer {ADMIN}"}
    assert http.ask("GET", "/api/jobs/1/pause", None, admin)[0] == 405 and http.ask("POST", "/api/jobs.json", "", admin)[0] == 405
    assert http.ask("POST", "/api/jobs/1/pause", "x=1", admin)[0] in (400, 413)


def test_without_keys_nobody_may_change(tmp_path):
    with Broker(tmp_path / "d", model=MODEL) as broker, broker.client() as client:
        http = Page(tmp_path, broker)
        with http:
            job = client.submit("a", [{"ids": [5]}], seal=False)["job"]
            assert http.look("/api/overview.json", None)["may_change"] is False and http.look("/api/jobs.json", None)["newest"]
            assert http.change(job, "cancel", None)[0] == 403 and client.call("status", job=job)["state"] == "open"


def test_a_key_with_another_right_is_refused(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"ops {ADMIN} root\n")
    keys.chmod(0o600)
    with Broker(tmp_path / "d", model=MODEL) as broker:
        http = Page(tmp_path, broker, ["--api-keys", keys])
        with pytest.raises(AssertionError):
            http.start()
        assert http.process.wait() == 78 and "the word admin" in http.words()


# ---- a broker that is slow, or large ----

def test_a_broker_that_stands_still(tmp_path):
    """The page's data are late and say so; what needs no broker is not late at all, and all is well when it goes on."""
    with Broker(tmp_path / "d", model=MODEL) as broker:
        http = Page(tmp_path, broker)
        with http:
            os.kill(broker.process.pid, signal.SIGSTOP)
            began = time.monotonic()
            error = http.look("/api/jobs.json", None, 503)["error"]
            assert "does not answer" in error["message"] and 1.5 < time.monotonic() - began < 4 * PATIENCE
            began = time.monotonic()
            assert http.get("/page.js")[0] == 200 and time.monotonic() - began < 1
            os.kill(broker.process.pid, signal.SIGCONT)
            wait_until(lambda: http.ask("GET", "/api/jobs.json")[0] == 200)


def test_many_failed_rows_come_in_parts(served):
    """As many as there is time for; the broker's own pages go on where they ended."""
    http, client, _ = served
    job = client.submit("failing", [{"id": i, "ids": [] if i % 3 else [5, 6]} for i in range(4500)])["job"]
    wait_until(lambda: client.call("status", job=job)["done"] == 4500)
    found = http.look(f"/api/jobs/{job}/failed.json")
    assert len(found["rows"]) >= 20 and not found["done"] and len({row["i"] for row in found["rows"]}) == len(found["rows"])
    rows, after, done = [], 0, False
    while not done:
        page = client.call("failed", job=job, after=after, limit=700)
        rows, after, done = rows + page["rows"], page["next"], page["done"]
    assert [row["i"] for row in rows] == [i for i in range(4500) if i % 3] and {row["code"] for row in rows} == {"no_tokens"}


def test_the_messages_behind_it(served):
    client = served[1]
    seen, before = [], 2**31 - 1
    while before:
        page = client.call("jobs", before=before, limit=7)
        seen, before = seen + [job["job"] for job in page["jobs"]], page["next"] if page["jobs"] else 0
    everything, after = [], 0
    while page := client.call("jobs", after=after)["jobs"]:
        everything, after = everything + [job["job"] for job in page], page[-1]["job"]
    assert seen == everything[::-1]
    assert [job["state"] for job in client.call("jobs", before=2**31 - 1, state="paused")["jobs"]] == ["paused"]
    for fields in ({"before": 5, "after": 3}, {"before": 0}, {"before": "x"}):
        with pytest.raises(Refused, match="bad_request"):
            client.call("jobs", **fields)
    assert client.call("throughput", limit=1)["minutes"] is not None
    for op in ("sample", "failed"):
        with pytest.raises(Refused, match="unknown_job"):
            client.call(op, job="nobody")
        with pytest.raises(Refused, match="bad_request"):
            client.call(op)
