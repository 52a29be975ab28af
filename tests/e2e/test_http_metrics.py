"""/metrics as Prometheus reads it: every family by an independent parser, names and units by convention, numbers that are those of
what was done; and the alerts and the dashboard, which may name nothing that is not there."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest
from harness import MODELS, Broker, wait_until
from http_harness import Http
from prometheus_client.parser import text_string_to_metric_families

HERE = pathlib.Path(__file__).resolve().parents[2] / "broker/http"
ALIASES = {"vllm:num_requests_running", "vllm:num_requests_waiting"}  # vLLM's own names, for autoscalers
HTTP_ALONE = {"assay_up", "assay_ready"}
FUNCTIONS = {"rate", "increase", "sum", "count", "by", "histogram_quantile", "label_values", "and", "or", "le", "instance", "endpoint", "code", "up", "job"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A broker and assay-http that have scored rows alike and apart, refused a request and failed a row."""
    path = tmp_path_factory.mktemp("metrics")
    with Broker(path / "d", model=MODELS / "demo-reward") as broker, broker.client() as client, Http(path, broker) as http:
        http.ok("/classify", {"input": ["3 + 4 = 7", "3 + 4 = 8"]})
        http.refused("/classify", {"input": "a", "dimensions": 4})
        long = list(range(5, 150))
        client.call("score", rows=[{"ids": long + [k]} for k in range(8)] + [{"ids": long + [3]}, {"ids": [10**7]}])
        wait_until(lambda: figure(http, "assay_unfinished_rows") == 0 and figure(http, "assay_rows_done_total") == 11)
        yield http, client, broker


def families(http):
    return {family.name: family for family in text_string_to_metric_families(http.get("/metrics")[1])}


def samples(http):
    return [sample for family in families(http).values() for sample in family.samples]


def figure(http, name, **labels):
    return sum(s.value for s in samples(http) if s.name == name and labels.items() <= s.labels.items())


def test_every_family_is_described(served):
    """HELP and TYPE once for each, in front of its samples; names, units and labels by Prometheus' conventions."""
    text = served[0].get("/metrics")[1]
    for what in ("HELP", "TYPE"):
        named = re.findall(rf"^# {what} (\S+) \S", text, re.M)
        assert len(named) == len(set(named)) > 40
    for family in families(served[0]).values():
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family
        assert re.fullmatch(r"assay_[a-z_]+", family.name) or family.name in ALIASES
        assert not re.search(r"_(ms|us|s|kb|mb|millis\w*)$", family.name)
        for sample in family.samples:
            assert sample.value >= 0 and (family.type != "counter" or sample.name.endswith("_total"))


def test_promtool_has_nothing_to_say(served):
    promtool = shutil.which("promtool") or pytest.skip("no promtool here (Debian: prometheus)")
    text = "".join(line + "\n" for line in served[0].get("/metrics")[1].splitlines() if "vllm:" not in line)  # a colon is not ours
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout + done.stderr, done
    subprocess.run([promtool, "check", "rules", str(HERE / "alerts.yml")], check=True)


def test_numbers_are_those_of_the_work(served):
    http, client, broker = served
    info = client.call("info")
    assert figure(http, "assay_rows_accepted_total") == 12  # one of them was refused as it came
    assert figure(http, "assay_rows_copied_total") == 1
    assert figure(http, "assay_tokens_total") == info["counters"]["tokens"]
    assert 0 < figure(http, "assay_tokens_shared_total") == info["counters"]["tokens_shared"] < info["counters"]["tokens"]
    assert figure(http, "assay_batches_total") == info["counters"]["batches"] > 0
    assert figure(http, "assay_db_bytes") == (broker.data / "assay.db").stat().st_size
    assert figure(http, "assay_disk_free_bytes") > 1e6 and figure(http, "assay_memory_bytes") > 1e6 and figure(http, "assay_http_memory_bytes") > 1e6
    assert figure(http, "assay_rank_up", group="0", rank="0", model="demo-reward") == 1
    assert 0 < figure(http, "assay_rank_busy_seconds_total") <= figure(http, "assay_rank_up_seconds_total")
    assert figure(http, "assay_rank_memory_bytes") > 1e6
    assert abs(figure(http, "assay_start_time_seconds") - info["started_ms"] / 1000) < 0.01
    assert figure(http, "assay_http_requests_total", endpoint="/classify", code="400") == 1


def test_histograms_add_up(served):
    """Buckets grow, the last is the count; two jobs had rows to run, and one request had rows to send."""
    http = served[0]
    for name, count in (("assay_queue_seconds", 2), ("assay_http_queue_seconds", 1)):
        buckets = [(float(s.labels["le"]), s.value) for s in samples(http) if s.name == name + "_bucket"]
        assert buckets == sorted(buckets) and [n for _, n in buckets] == sorted(n for _, n in buckets)
        assert buckets[-1] == (float("inf"), count) and figure(http, name + "_count") == count
        assert 0 < figure(http, name + "_sum") < 60
    assert figure(http, "assay_http_request_seconds_count", endpoint="/classify") == 2


def test_the_queues_age_grows_while_rows_wait(tmp_path):
    """While the only worker stands still, rows wait for it, as long as they have; a paused job does not wait."""
    with Broker(tmp_path / "d", model=MODELS / "demo-reward") as broker, broker.client() as client, Http(tmp_path, broker) as http:
        [worker] = client.call("info")["workers"]
        os.kill(worker["pid"], signal.SIGSTOP)
        began = time.monotonic()
        for k in range(4):
            client.submit("a", [{"ids": [(500 * k + i) // 200 + 5, i % 200 + 5] + [7] * 900} for i in range(500)], chunk=k, seal=k == 3)
        wait_until(lambda: figure(http, "assay_queue_age_seconds") > 1)
        assert figure(http, "assay_queue_age_seconds") <= time.monotonic() - began
        wait_until(lambda: figure(http, "assay_unfinished_rows") == 2000 and figure(http, "assay_unfinished_jobs") == 1)
        client.call("pause", job="a")
        wait_until(lambda: figure(http, "assay_queue_age_seconds") == 0)


def names_in(expression):
    """The metrics that an expression names: words outside of braces, brackets, quotes and `by (..)`."""
    expression = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)|\"[^\"]*\"", " ", expression)
    return set(re.findall(r"(?<![\w.])[a-zA-Z_:][a-zA-Z0-9_:]*", expression)) - FUNCTIONS


def labels_in(expression):
    return set(re.findall(r"(\w+)=~?\"", expression)) | {w for by in re.findall(r"by \(([^)]*)\)", expression) for w in by.split(", ")}


def test_alerts_and_dashboard_name_what_is_there(served):
    """A name that is no metric would never fire, and draw nothing, in silence."""
    there = {s.name for s in samples(served[0])}
    labels = {label for s in samples(served[0]) for label in s.labels} | {"instance", "job", "le"}
    dashboard = json.loads((HERE / "dashboard.json").read_text())
    drawn = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = re.findall(r"^ +expr: (.*)$", (HERE / "alerts.yml").read_text(), re.M)
    assert len(alerts) == (HERE / "alerts.yml").read_text().count("- alert:") > 10 and len(drawn) > 20
    for expression in drawn + alerts:
        assert names_in(expression) <= there and labels_in(expression) <= labels, expression
        assert names_in(expression) or expression.startswith("up{")
    for label in re.findall(r"\$labels\.(\w+)", (HERE / "alerts.yml").read_text()) + re.findall(r"{{(\w+)}}", json.dumps(drawn)):
        assert label in labels
    assert len({panel["title"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_while_the_broker_is_gone(tmp_path):
    """The page is there, says so, and has none of the broker's numbers from before."""
    with Broker(tmp_path / "d", model=MODELS / "demo-reward") as broker, Http(tmp_path, broker) as http:
        assert figure(http, "assay_up") == 1
        broker.stop()
        wait_until(lambda: figure(http, "assay_up") == 0)
        assert "assay_rows_done_total" not in families(http) and {f.name for f in families(http).values()} >= HTTP_ALONE | ALIASES
