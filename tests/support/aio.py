"""Tools for tests of the asyncio client: a loop that reports lost errors, a scripted broker, a real broker."""

from __future__ import annotations

import asyncio
import gc
import json
import struct
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from gloom.client.aio import Master, Slave
from tests.support.daemon import Daemon

SECONDS = 30.0
WELCOME = {"ok": True, "version": 1, "server": "gloom/0", "max_frame": 65536, "heartbeat": 0.0, "features": []}
OK = {"ok": True}


def run(main: Coroutine[Any, Any, Any], seconds: float = SECONDS) -> Any:
    """Run *main* in its own loop, within a time limit; fail if an error was never retrieved."""
    lost = list[dict[str, Any]]()

    async def guarded() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: lost.append(context))
        async with asyncio.timeout(seconds):
            result = await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert left == set(), f"tasks were left: {left}"
        return result

    try:
        return asyncio.run(guarded())
    finally:
        gc.collect()
        assert lost == [], lost


async def until(true: Any) -> None:
    """Run the loop until *true()* holds; `run` sets the time limit."""
    while not true():
        await asyncio.sleep(0.001)


class Far:
    """The broker's end of one connection, scripted by the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def hears(self) -> Any:
        """Wait for the next message."""
        (length,) = struct.unpack("!I", await self._reader.readexactly(4))
        return json.loads(await self._reader.readexactly(length))

    def says(self, *messages: Any) -> None:
        """Send *messages*, values or raw payloads, in one piece."""
        payloads = [m if isinstance(m, bytes) else json.dumps(m).encode() for m in messages]
        self.writer.write(b"".join(struct.pack("!I", len(payload)) + payload for payload in payloads))

    async def welcomes(self, **changes: Any) -> Any:
        """Read the ``hello``, answer it, and return it."""
        hello = await self.hears()
        assert hello["action"] == "hello"
        self.says(WELCOME | changes)
        return hello

    async def ends(self) -> None:
        """Wait until the client has closed, discarding its last messages."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            pass

    def close(self) -> None:
        self.writer.close()

    def drop(self) -> None:
        self.writer.transport.abort()


class Scripted:
    """A listener whose connections the test scripts."""

    def __init__(self) -> None:
        self._connections: asyncio.Queue[Far] = asyncio.Queue()
        self.all = list[Far]()
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = Far(reader, writer)
        self.all.append(far)
        self._connections.put_nowait(far)

    async def connection(self) -> Far:
        """Wait for the next connection."""
        return await self._connections.get()

    async def welcomed(self, **changes: Any) -> Far:
        """Wait for the next connection, and answer its ``hello``."""
        far = await self.connection()
        await far.welcomes(**changes)
        return far


@asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    """Listen on a free port."""
    broker = Scripted()
    server = await asyncio.start_server(broker.accepted, "127.0.0.1", 0)
    broker.port = server.sockets[0].getsockname()[1]
    try:
        yield broker
    finally:
        server.close()
        for far in broker.all:
            far.drop()


def master(daemon: Daemon, **options: Any) -> Master:
    """Return a master of *daemon*."""
    return Master(f"127.0.0.1:{daemon.master_port}", **options)


def slave(daemon: Daemon, type: Any, function: Any, **options: Any) -> Slave:
    """Return a slave of *daemon*."""
    return Slave(f"127.0.0.1:{daemon.slave_port}", type, function, **options)


async def echo(body: Any) -> Any:
    """Answer a job with its body."""
    return body
