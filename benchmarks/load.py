"""Clients in a process of their own, on plain sockets so that they cost little: subscribers of a feed, and HTTP load.

    python -m benchmarks.load subscribe COUNT SOCKET    one line when all have the state, one when all have a change
    python -m benchmarks.load steady RATE SECONDS FILE  requests at a fixed rate, whatever the answers take
    python -m benchmarks.load full SECONDS FILE         as many requests as are answered

A line of FILE is a URL, a word that its answer has, and the address that asks, which the server takes from a header.

Times are those of CLOCK_MONOTONIC, which all processes of a machine share. Every line of output is JSON.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ADDRESS = "X-Bench-Address"
CONNECTIONS = 64
DEPTH = 8  # requests in a row on one connection at full load: the client must not be what is measured


def say(**what: object) -> None:
    """One line for whoever started us."""
    print(json.dumps(what), flush=True)


# Subscribers


async def subscribe(count: int, path: str) -> None:
    """Follow machines `count` times; a change is what comes after the last part of the snapshot."""
    request = b"GET /v1/feed?topic=machines HTTP/1.1\r\nHost: mdb\r\nAccept: text/event-stream\r\n\r\n"
    ready, changed = asyncio.Semaphore(0), asyncio.Semaphore(0)
    times: list[float] = []
    opening = asyncio.Semaphore(32)

    async def one() -> None:
        async with opening:
            reader, writer = await asyncio.open_unix_connection(path, limit=2**20)
            writer.write(request)
            tail = b""
            while b'"last":true' not in tail:
                piece = await reader.read(65536)
                assert piece, "the feed ended"
                tail = (tail + piece)[-200_000:]
            ready.release()
        tail = b""
        while b"event: change" not in tail:
            piece = await reader.read(65536)
            assert piece, "the feed ended"
            tail = tail[-20:] + piece
        times.append(time.monotonic())
        changed.release()

    tasks = [asyncio.create_task(one()) for _ in range(count)]
    for _ in range(count):
        await ready.acquire()
    say(ready=count)
    for _ in range(count):
        await changed.acquire()
    say(first=min(times), median=statistics.median(times), last=max(times))
    await asyncio.gather(*tasks)


# HTTP


@dataclass(frozen=True)
class Question:
    """A request, and a word that its answer has."""

    request: bytes
    word: bytes

    def wrong(self, status: int, body: bytes) -> bool:
        """Is this no answer to it?"""
        return status != 200 or self.word not in body


class Connection:
    """A connection that is kept; `get` is the status and body of one answer."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def send(self, questions: Sequence[Question]) -> None:
        """Ask some questions, one after the other."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        self.writer.write(b"".join(question.request for question in questions))

    async def answer(self) -> tuple[int, bytes]:
        """The next answer, which has to say how long it is, or come in chunks."""
        assert self.reader is not None
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            body = b""
            while size := int((await self.reader.readline()).strip(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
            return status, body
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return status, await self.reader.readexactly(length)

    def drop(self) -> None:
        """Begin anew with the next question."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


def read(file: str) -> tuple[str, int, list[Question]]:
    """Host, port and questions of a file about one server."""
    lines = [line.split() for line in Path(file).read_text().splitlines()]
    parts = urlsplit(lines[0][0])
    questions = []
    for url, word, address in lines:
        request = f"GET {urlsplit(url).path} HTTP/1.1\r\nHost: netboot\r\n{ADDRESS}: {address}\r\n\r\n"
        questions.append(Question(request.encode(), word.encode()))
    return str(parts.hostname), parts.port or 80, questions


async def steady(rate: float, seconds: float, file: str) -> None:
    """A request every 1/rate s, over some connections; a delay is counted from when it should have been sent."""
    host, port, questions = read(file)
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(Connection(host, port))
    delays: list[float] = []
    wrong: Counter[str] = Counter()

    async def one(number: int, due: float) -> None:
        connection, question = await free.get(), questions[number % len(questions)]
        try:
            await connection.send([question])
            status, body = await connection.answer()
            delays.append(time.monotonic() - due)
            if question.wrong(status, body):
                wrong[f"{status}: {body[:80]!r}"] += 1
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            delays.append(time.monotonic() - due)
            wrong[f"{type(error).__name__}"] += 1
            connection.drop()
        finally:
            free.put_nowait(connection)

    began = time.monotonic()
    tasks = []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    ordered = sorted(delays)
    say(
        requests=len(ordered),
        median=statistics.median(ordered),
        p99=ordered[int(len(ordered) * 0.99)],
        worst=ordered[-1],
        wrong=sum(wrong.values()),
        examples=dict(wrong.most_common(3)),
    )


async def full(seconds: float, file: str) -> None:
    """As many answers as there can be, over some connections with several questions in a row on each."""
    host, port, questions = read(file)
    deadline = time.monotonic() + seconds
    answered = wrong = size = 0

    async def one(offset: int) -> None:
        nonlocal answered, wrong, size
        connection = Connection(host, port)
        number = offset
        while time.monotonic() < deadline:
            asked = [questions[(number + each) % len(questions)] for each in range(DEPTH)]
            await connection.send(asked)
            for question in asked:
                status, body = await connection.answer()
                answered += 1
                wrong += question.wrong(status, body)
                size = len(body)
            number += DEPTH
        connection.drop()

    began = time.monotonic()
    await asyncio.gather(*(one(number * 1237) for number in range(CONNECTIONS // DEPTH)))
    say(answered=answered, per_second=answered / (time.monotonic() - began), wrong=wrong, size=size)


def main(argv: Sequence[str]) -> int:
    """Do what the first word says."""
    socket.setdefaulttimeout(60)
    if argv[0] == "subscribe":
        asyncio.run(subscribe(int(argv[1]), argv[2]))
    elif argv[0] == "steady":
        asyncio.run(steady(float(argv[1]), float(argv[2]), argv[3]))
    else:
        asyncio.run(full(float(argv[1]), argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
