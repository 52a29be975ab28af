"""The client of v2's servers: asynchronous, one connection a client, each with one request at a time. Needs aiohttp.

    http_load.py URL CLIENTS MODEL < ROWS      a line of ids in JSON a row; URL is a server's /classify

Every client sends rows of the list until none is left. Prints one line of JSON: seconds in all, each request's, and the scores.
"""
import asyncio
import json
import sys
import time

import aiohttp


async def one_client(session, url, model, rows, found):
    while rows:
        k, ids = rows.pop()
        start = time.perf_counter()
        async with session.post(url, json={"model": model, "input": ids, "use_activation": False}) as reply:
            body = await reply.json()
        if reply.status != 200:
            raise SystemExit(f"http_load: {reply.status}: {json.dumps(body)[:500]}")
        found[k] = (time.perf_counter() - start, body["data"][0]["probs"][0])


async def load(url, n_clients, model, rows):
    left, found = list(enumerate(rows))[::-1], {}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)) as session:
        start = time.perf_counter()
        await asyncio.gather(*(one_client(session, url, model, left, found) for _ in range(n_clients)))
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "each": [found[k][0] for k in range(len(rows))], "scores": [found[k][1] for k in range(len(rows))]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(sys.argv[1], int(sys.argv[2]), sys.argv[3], [json.loads(line) for line in sys.stdin]))))
