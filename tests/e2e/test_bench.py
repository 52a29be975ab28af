"""What the benchmarks are made of, as far as it can be tried in a second: plots, pages, statistics."""
import json
import re
import struct
import sys
import xml.etree.ElementTree

import pytest
from harness import ROOT

sys.path.insert(0, str(ROOT / "tests/bench"))
import area_forward  # noqa: E402
import bench  # noqa: E402
import common  # noqa: E402
import compare  # noqa: E402
import page  # noqa: E402
import peer_llama  # noqa: E402
import plot  # noqa: E402


def chart(series, **more):
    return common.Chart("c", "A & B", "Note.", ["x", "y"], [["1", "2"]], series, "tokens <each>", "rate", **more)


def points(text, tag):
    root = xml.etree.ElementTree.fromstring(text)
    return [e for e in root.iter() if e.tag.endswith("}" + tag)]


@pytest.mark.parametrize("more", [{}, {"log_x": False}, {"log_y": True}, {"y_from": None}])
def test_plot_is_xml_and_inside(more):
    text = plot.svg(chart({"a <1>": [(8, 0.5), (32768, 3.25)], "b": [(8, 1000.0), (512, 7)]}, **more))
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in points(text, "circle")]
    assert len(circles) == 4 and len(points(text, "polyline")) == 2
    assert all(plot.LEFT <= x <= plot.WIDTH - plot.RIGHT and plot.TOP <= y <= plot.HEIGHT - plot.BOTTOM for x, y in circles)
    assert circles[0][1] > circles[2][1], "what is more is higher"


def test_plot_of_one_point():
    assert len(points(plot.svg(chart({"a": [(1, 1)]})), "circle")) == 1


@pytest.mark.parametrize("low, high, expected", [(0, 0.93, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, 170, [0, 50, 100, 150, 200]), (3, 4, [3, 3.2, 3.4, 3.6, 3.8, 4])])
def test_ticks(low, high, expected):
    assert plot.linear_ticks(low, high) == pytest.approx(expected)
    assert plot.log_ticks(8, 32768) == [1, 10, 100, 1000, 10000, 100000]


def test_labels_of_ticks():
    assert [plot.number(n) for n in (0.25, 8, 512, 2048, 32768, 1000, 10_000_000)] == ["0.25", "8", "512", "2k", "32k", "1k", "10M"]


def test_page_keeps_what_is_around_the_markers(directory):
    (directory / "README.md").write_text(f"before\n{page.BEGIN}old{page.END}\nafter\n")
    for ratio in (0.5, 0.75):
        results = page.Results(directory)
        results.put("b1", [common.Row("b1", "products", "1", "2", ratio, 0.87)], [chart({"a": [(1, 1), (2, 2)]})])
        results.write(["b1", "c1"])
    text = (directory / "README.md").read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| b1 | products | 1 | 2 | 0.75 | 0.87 |" in text and "0.50" not in text and "plots/c.svg" in text
    assert (directory / "plots/c.svg").exists()


@pytest.mark.parametrize("n, outer", [(3, 0), (5, 0), (7, 0), (8, 0), (9, 1), (12, 2), (20, 5)])
def test_interval_holds_the_middle(n, outer):
    """The ranks are those of the sign test's tables for 95 %."""
    ratios = [1 + k / 100 for k in range(n)]
    low, middle, high = compare.interval(ratios[::-1])
    assert (low, high) == (ratios[outer], ratios[n - 1 - outer]) and middle == pytest.approx(1 + (n - 1) / 200)


@pytest.mark.parametrize("ratios, slower", [([0.9] * 7, True), ([1.0] * 7, False), ([0.98] * 7, False), ([0.9] * 6 + [1.1], False),
                                            ([1.1] * 7, False), ([0.9] * 5, False)])
def test_slower_is_told_from_noise(ratios, slower):
    assert compare.is_slower(ratios, 0.97) == slower


def test_pairs_take_turns(monkeypatch):
    """Each pair runs both trees, and the one that is first changes; ratios are this tree's to the base's."""
    order = []
    monkeypatch.setitem(compare.MEASURES, "gemm", lambda tree: order.append(tree) or {"base": {"gemm": 2.0, "old": 1}, "here": {"gemm": 3.0}}[tree])
    ratios, rates = compare.measure_pairs("base", "here", ["gemm"], 3)
    assert order == ["base", "here", "here", "base", "base", "here"]
    assert ratios == {"gemm": [1.5] * 3} and rates == {"gemm": [(3.0, 2.0)] * 3}


def test_fewer_bits_are_set_against_the_work_that_is_executed(monkeypatch):
    """What float32 could at most is what bench_forward counts: the pruned last layer, and attention too."""
    monkeypatch.delenv("PEER_LLAMA", raising=False)
    turns = iter([(300.0, 1.5), (500.0, 1.25), (310.0, 1.75), (200.0, 1.0), (400.0, 2.0), (300.0, 1.5)])
    monkeypatch.setattr(area_forward.common, "checkpoint", lambda: "model")
    monkeypatch.setattr(area_forward, "lines", lambda *_: [dict(zip(("tokens_per_s", "share"), next(turns)))])
    int8, bf16 = area_forward.b4()
    assert int8.ratio == 1.5 and int8.ours == "310.0 tokens/s" and int8.other == "206.7 tokens/s"
    assert bf16.ratio == 1.5 and bf16.ours == "300.0 tokens/s" and bf16.other == "200.0 tokens/s"


def executed_gflop(config, rows, tokens, budget, shared):
    """What a forward executes, by counting: rows after the first of a batch without the tokens that they share."""
    hidden, heads, kv, layers = (config[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers"))
    dim, total, left = config.get("head_dim", hidden // heads), 0, rows
    while left > 0:
        n = min(1 + (budget - tokens) // (tokens - shared), left)
        batch, pairs = tokens + (n - 1) * (tokens - shared), sum(range(1, tokens + 1)) + (n - 1) * sum(range(shared + 1, tokens + 1))
        total += layers * (batch * hidden * (heads + 2 * kv) * dim + 2 * pairs * heads * dim)
        total += (batch * (layers - 1) + n) * (hidden * heads * dim + 3 * hidden * config["intermediate_size"])
        left -= n
    return 2e-9 * total


@pytest.mark.parametrize("rows, tokens, budget, shared", [(8, 64, 128, 0), (7, 64, 200, 0), (8, 64, 200, 40), (9, 33, 100, 32)])
def test_forward_counts_what_it_executes(rows, tokens, budget, shared):
    model = ROOT / "tests/models/llama"
    said, = common.lines(common.TOOLS / "bench_forward", model, rows, tokens, budget, 1, shared)
    gflop = said["cpu_share"] * said["cpu_peak"] * rows * tokens / said["cpu_tokens_per_s"]
    assert gflop == pytest.approx(executed_gflop(json.loads((model / "config.json").read_text()), rows, tokens, budget, shared), rel=0.05)


def test_page_says_what_each_figure_is():
    text = (ROOT / "tests/bench/README.md").read_text()
    said = {name for line in text.splitlines() if line.startswith("| ") for name in re.split(r"[ ,|]+", line.split("|")[1])}
    assert set(bench.FIGURES) <= said and page.BEGIN in text and page.END in text


def test_peers_model_is_read_as_written(directory):
    """The GGUF file: magic, counts, and as many bytes as its tensors take."""
    config = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
              "max_position_embeddings": 64, "rope_theta": 1e6, "rms_norm_eps": 1e-6}
    for kind, bits in (("f16", 16), ("bf16", 16), ("q8_0", 8.5)):
        peer_llama.write_gguf(directory / "m.gguf", config, kind)
        data = (directory / "m.gguf").read_bytes()
        shapes = peer_llama.shapes(config).values()
        tensors = sum(s[0] * s[1] * bits / 8 if len(s) == 2 else s[0] * 4 for s in shapes)
        assert data[:4] == b"GGUF" and struct.unpack_from("<IQQ", data, 4) == (3, len(shapes), len(peer_llama.facts(config, kind)))
        assert tensors < len(data) < tensors + 4096
