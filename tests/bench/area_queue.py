"""c1: rows made durable; e1 and e2: the queue when it is long. d1 and others of the queue belong here too."""
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile
import time

import common
from common import Chart, Row, harness


class Server:
    """A queue to compare with: a process of its own on a unix socket in a temporary directory, every acknowledgement synced."""
    COMMANDS = {
        "beanstalkd": lambda d: ["beanstalkd", "-l", f"unix:{d}/socket", "-b", d, "-f0"],
        "redis": lambda d: ["redis-server", "--port", "0", "--unixsocket", f"{d}/socket", "--dir", d, "--save", "", "--appendonly", "yes",
                            "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0", "--daemonize", "no"],
    }

    def __init__(self, name, directory):
        self.endpoint, self.command = f"{directory}/socket", self.COMMANDS[name](str(directory))

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not os.path.exists(self.endpoint):
            assert self.process.poll() is None and time.monotonic() < deadline, self.command
            time.sleep(0.02)
        time.sleep(0.2)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def queue(name, directory):
    if name == "assay":
        # All rows are the same: they are to be computed all the same.
        return harness.Broker(directory / "d", options=["--max-batch-tokens", 512, "--no-dedupe", "--no-prefix-sharing"])
    return Server(name, directory)


def durable_rows(name, connections, window, seconds=3):
    """Acknowledged rows/s of a queue made for this, with 32 batches of 64 rows under way."""
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        with queue(name, pathlib.Path(directory)) as server:
            return common.lines(common.TOOLS / "bench_submit", name, server.endpoint, connections, window, seconds)[0]["rows_per_s"]


def disk_alone():
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        text = subprocess.run([common.TOOLS / "bench_store", directory, "2"], capture_output=True, text=True, check=True).stdout
    return float(re.search(r"disk alone\s+(\d+) rows/s", text).group(1))


def c1(rounds=3):
    """In turns, since a disk has moods; the middle of each, of the faster of the two ways: all from one connection, or one each of 32."""
    names, disk, rates = ["assay"], [], {}
    for name, package in (("beanstalkd", "beanstalkd"), ("redis", "redis-server")):
        if shutil.which(package):
            names.append(name)
        else:
            common.say(f"c1: no {package}, the peer was not measured (apt-get install {package})")
    for _ in range(rounds):
        disk.append(disk_alone())
        for ways in ((1, 32), (32, 1)):
            for name in names:
                rates.setdefault((name, ways), []).append(durable_rows(name, *ways))
    for (name, ways), got in rates.items():
        common.say(f"c1 {name:10s} {ways[0]:2d} connections: {', '.join(f'{r:,}' for r in got)} rows/s")
    crowd = statistics.median(durable_rows("assay", 1000, 1) for _ in range(rounds))
    best = {name: max(statistics.median(got) for (other, _), got in rates.items() if other == name) for name in names}
    peers = [("beanstalkd -f0", best.get("beanstalkd"), 20), ("Redis Streams, appendfsync always", best.get("redis"), 1.2),
             ("the disk alone, same commits", statistics.median(disk), None)]
    for peer, rate, target in peers:
        if rate:
            yield Row("c1", f"durable rows/s through the socket / {peer}", f"{best['assay']:,.0f} rows/s", f"{rate:,.0f} rows/s",
                      best["assay"] / rate, target)
    yield Row("c1", "the same from 1,000 connections, a job and a request of each / best", f"{crowd:,.0f} rows/s", f"{best['assay']:,.0f} rows/s",
              crowd / best["assay"])


def e1():
    """And e2 and the chart over the queue's depth: all from the same databases."""
    depth = int(os.environ.get("DEPTH", "1000000"))
    common.say(f"e1: filling queues of 1,000 to {depth:,} rows")
    with tempfile.TemporaryDirectory(prefix="assay-", dir="/tmp") as directory:
        rows = common.lines(common.TOOLS / "bench_depth", directory, depth)
    few, many = rows[0], rows[-1]
    depth = f"{many['depth']:,} / {few['depth']:,} rows queued"
    yield Row("e1", f"claim and finish, {depth}", f"{many['rows_per_s']:,} rows/s", f"{few['rows_per_s']:,} rows/s", many["ratio"], 0.95)
    yield Row("e1", "the same in processor time a row", f"{many['cpu_us']:.1f} us", f"{few['cpu_us']:.1f} us", many["cpu_ratio"])
    yield Row("e1", "1,000 results from the end of a job / from its beginning", f"{many['last_page_ms']:.2f} ms",
              f"{many['first_page_ms']:.2f} ms", many["first_page_ms"] / many["last_page_ms"])
    yield Row("e2", f"killed broker's database to first batch, {depth}", f"{many['restart_ms']:.0f} ms", f"{few['restart_ms']:.0f} ms",
              few["restart_ms"] / many["restart_ms"])
    yield depth_chart(rows)


def depth_chart(rows):
    cells = [[f"{r['depth']:,}", f"{r['bytes'] / 1e6:,.0f}", f"{r['rows_per_s']:,}", f"{r['cpu_us']:.1f}", f"{r['status_us']:.0f}",
              f"{r['last_page_ms']:.2f}", f"{r['restart_ms']:.0f}"] for r in rows]
    return Chart("queue-depth", "Rows in the queue", "A batch of 64 rows claimed, its results and its end written and synced; as many rows done as "
                 "queued. Depths take turns of a quarter of a second.",
                 ["rows queued", "database, MB", "rows/s", "processor, us a row", "status, us", "page of 1,000, ms", "restart to first batch, ms"],
                 cells, {"claimed and finished": [(r["depth"], r["rows_per_s"]) for r in rows],
                         "a second of processor time": [(r["depth"], 1e6 / r["cpu_us"]) for r in rows]}, "rows queued", "rows/s")
