"""Clients of assayd: scores of reward models over ZeroMQ. Needs pyzmq and msgpack, Python 3.9 or
later.

    import assay
    client = assay.Client("ipc://assay-data/broker.sock")       # or AsyncClient, with await
    client.score([{"text": "The sky is blue."}])[0]["score"]

    job = client.submit(({"id": n, "ids": ids} for n, ids in enumerate(corpus)), key="monday")
    for row in client.results(job):   # in order of completion; the broker may be killed meanwhile
        print(row["id"], row["score"] if row["error"] is None else row["error"]["code"])

    client.best_of("3 + 4 = ?", ["7", "8"])["best"]             # responses to one prompt
    client.compare("7", "8", prompt="3 + 4 = ?")["margin"]      # a pair
    client.rank("capital of France", ["Paris", "Rome"])         # documents, with a recipe
    client.score(rows, models=["large", "small"])               # an ensemble

Rows and results are dicts: types.Row and types.Result say their keys, shapes and units. What is
wrong with one row is that row's `error`, and its neighbours are scored.

NOTHING IS LOST OR DOUBLED. Each try of a request has a socket of its own, so a reply that comes
late cannot be taken for another's. When none comes, because the broker was killed, say, the same
bytes go out again under the same key, and the broker stores a chunk once. `queue_full` and
`not_ready` are waited out as the broker asks. Only then comes an AssayError.

THREADS, FORKS, LOOPS: a client holds its settings and nothing else. Share one among threads, tasks
and event loops, use it in a forked child, pickle it.

    client.py, aio.py      the two clients: the same operations, with the same names
    core.py                what they do, as steps that either of them takes
    wire.py                messages: packing, chunks, errors, addresses
    types.py               rows and results
    rewards.py             results as a trainer's rewards
    trl_reward.py, openrlhf_reward.py, verl_reward.py      reward functions
    parquet.py             rows of Parquet files
"""
from .aio import AsyncClient
from .client import Client
from .types import Result, Row
from .wire import AssayError, default_endpoint, pack_ids

__version__ = "0.1.0"
__all__ = ["AssayError", "AsyncClient", "Client", "Result", "Row", "default_endpoint", "pack_ids"]
