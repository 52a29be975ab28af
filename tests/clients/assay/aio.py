"""The client for asyncio: Client's methods, to be awaited, and its iterators for `async for`."""
from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import (Any, AsyncIterable, AsyncIterator, Dict, Iterable, List, Optional, Sequence,
                    Union)

import msgpack
import zmq
import zmq.asyncio

from .client import Job
from .core import Core, Pages, Steps, T, Try, one_result, score_fields
from .rewards import rewards_of, row_or_error
from .types import Result, RowLike, Text
from .wire import AssayError, Submission, random_key, request, with_ids

Rows = Union[Iterable[RowLike], AsyncIterable[RowLike]]


async def _each(rows: Rows) -> AsyncIterator[RowLike]:
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            yield row
    else:
        for row in rows:
            yield row


class AsyncClient(Core):
    __doc__ = f"""{Core.__doc__}

    Methods are Client's, which says what they do. Rows may come from an `async for` too. A task
    that is cancelled stops waiting; a job that it has made goes on: cancel() it by its key."""

    socket_type = zmq.REQ

    async def _try(self, body: bytes, wait_s: float) -> Optional[Dict[str, Any]]:
        with zmq.asyncio.Context.instance().socket(self.socket_type) as socket:
            socket.linger, socket.ipv6 = 0, self.endpoint.startswith("tcp://[")
            socket.connect(self.endpoint)
            await socket.send(body)
            if await socket.poll(math.ceil(wait_s * 1000)):
                return msgpack.unpackb(await socket.recv())
        return None

    async def _run(self, steps: Steps[T]) -> T:
        came: Optional[Dict[str, Any]] = None
        try:
            while True:
                step = steps.send(came)
                if isinstance(step, Try):
                    came = await self._try(step.body, step.wait_s)
                else:
                    await asyncio.sleep(step.seconds)
                    came = None
        except StopIteration as end:
            return end.value

    async def call(self, op: str, **fields: Any) -> Dict[str, Any]:
        return await self._run(self._call(op, **fields))

    # ---- jobs ----

    async def submit(self, rows: Rows, key: Optional[str] = None, priority: int = 0,
                     chunk_rows: int = 512, chunk_bytes: int = 8 << 20, meta: Any = None,
                     timeout_s: float = math.inf, model: Optional[str] = None,
                     models: Optional[Sequence[str]] = None) -> str:
        fields = {**score_fields(priority, model, models), "meta": meta}
        return (await self._submit(rows, key, fields, timeout_s, chunk_rows, chunk_bytes)).key

    async def _submit(self, rows: Rows, key: Optional[str], fields: Dict[str, Any],
                      timeout_s: float, chunk_rows: int = 512,
                      chunk_bytes: int = 8 << 20) -> Submission:
        deadline = time.monotonic() + timeout_s
        job = Submission(key or random_key(), fields, chunk_rows, chunk_bytes)
        async for row in _each(rows):
            chunk = job.add(row)
            if chunk is not None:
                job.sent(await self._run(self._send(chunk, deadline=deadline)))
        job.sent(await self._run(self._send(job.last(), deadline=deadline)))
        return job

    async def page(self, job: Job, after: int = 0, limit: int = 1000,
                   wait_s: float = 0.0) -> Dict[str, Any]:
        return await self._run(self._page(job, after, limit, wait_s))

    async def results(self, job: Job, after: int = 0,
                      timeout_s: float = math.inf) -> AsyncIterator[Result]:
        pages = Pages(self, job, job, after, timeout_s)
        while not pages.done:
            for row in await self._run(pages.next()):
                yield row
        await self._run(pages.cancelled())

    async def score(self, rows: Rows, timeout_s: float = 600.0, key: Optional[str] = None,
                    priority: int = 50, model: Optional[str] = None,
                    models: Optional[Sequence[str]] = None) -> List[Result]:
        deadline, fields = time.monotonic() + timeout_s, score_fields(priority, model, models)
        job = await self._submit(rows, key, fields, timeout_s)
        assert job.job is not None
        found = await self._run(self._in_order(job.job, job.key, job.n_rows, deadline))
        if key is None:
            with contextlib.suppress(AssayError):
                await self.call("purge", job=job.job, ephemeral=True)
        return found

    async def best_of(self, prompt: Text, responses: Sequence[Text], timeout_s: float = 600.0,
                      **fields: Any) -> Result:
        row = {"prompt": prompt, "responses": list(responses), **fields}
        return one_result(await self.score([row], timeout_s))

    async def rank(self, query: str, documents: Sequence[str], timeout_s: float = 600.0,
                   **fields: Any) -> Result:
        row = {"query": query, "documents": list(documents), **fields}
        return one_result(await self.score([row], timeout_s))

    async def compare(self, chosen: Text, rejected: Text, timeout_s: float = 600.0,
                      **fields: Any) -> Result:
        row = {"chosen": chosen, "rejected": rejected, **fields}
        return one_result(await self.score([row], timeout_s))

    async def rewards(self, rows: Rows, timeout_s: float = 600.0, model: Optional[str] = None,
                      models: Optional[Sequence[str]] = None) -> List[Optional[float]]:
        checked = [row_or_error(dict(row)) async for row in _each(rows)]
        return rewards_of(await self.score(checked, timeout_s, model=model, models=models))

    async def status(self, job: Job) -> Dict[str, Any]:
        return await self.call("status", job=job)

    async def wait(self, job: Job, timeout_s: float = math.inf) -> Dict[str, Any]:
        return await self._run(self._wait(job, timeout_s))

    async def jobs(self, state: Optional[str] = None) -> AsyncIterator[Dict[str, Any]]:
        after, some = 0, {} if state is None else {"state": state}
        while True:
            page = await self.call("jobs", after=after, **some)
            for job in page["jobs"]:
                yield job
            if not page["jobs"]:
                return
            after = page["next"]

    async def cancel(self, job: Job) -> str:
        return (await self.call("cancel", job=job))["state"]

    async def pause(self, job: Job) -> str:
        return (await self.call("pause", job=job))["state"]

    async def resume(self, job: Job, accept_mode: bool = False) -> str:
        return (await self.call("resume", job=job, accept_mode=accept_mode))["state"]

    async def retry(self, job: Job) -> Dict[str, Any]:
        return await self.call("retry", job=job)

    async def purge(self, job: Job) -> int:
        return await self._run(self._purge(job))

    # ---- sessions ----

    async def open(self, row: RowLike) -> str:
        return (await self._run(self._send(request("open", row=with_ids(row)))))["session"]

    async def append(self, sessions: Iterable[str], more: Iterable[RowLike]) -> List[str]:
        return await self._run(self._append(sessions, more))

    async def fork(self, session: str, n: int) -> List[str]:
        return (await self.call("fork", session=session, n=n))["sessions"]

    async def score_sessions(self, sessions: Iterable[str], timeout_s: float = 600.0,
                             priority: int = 50) -> List[Result]:
        return await self._run(self._score_sessions(sessions, timeout_s, priority))

    async def close_sessions(self, sessions: Iterable[str]) -> int:
        return (await self.call("close", sessions=list(sessions)))["closed"]

    # ---- the broker ----

    async def hello(self) -> Dict[str, Any]:
        return await self.call("hello")

    async def info(self) -> Dict[str, Any]:
        return await self.call("info")
