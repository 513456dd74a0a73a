"""What the workers of the tests are given to call; imported in their child processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from gloom.errors import BodyError, TryAgain
from gloom.worker import progress

NOT_A_FUNCTION = {"a": 1}


def double(number: Any) -> Any:
    return 2 * number


def echo(body: Any) -> Any:
    return body


class Shop:
    @staticmethod
    def price(name: str) -> int:
        return len(name)


def fail(reason: str) -> None:
    _fail_deeper(reason)


def _fail_deeper(reason: str) -> None:
    raise LookupError(reason)


class WithoutText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def fail_without_text(_body: Any) -> None:
    raise WithoutText


def try_again(mark: str) -> str:
    """Succeed where *mark* exists, and make it."""
    if Path(mark).exists():
        return "at last"
    Path(mark).touch()
    raise TryAgain("not yet")


def tell(body: Any) -> Any:
    """Tell of each item, and of one that is too large; return what was said of that."""
    for item in body:
        progress(item)
    try:
        progress("x" * 2_000_000)
    except BodyError as error:
        return str(error)
    return "no error"


def leave_a_talker(_body: Any) -> None:
    """Leave a thread that goes on telling after the job."""

    def talk() -> None:
        while True:
            progress("from the thread")

    threading.Thread(target=talk, daemon=True).start()


def leave(_body: Any) -> None:
    sys.exit("that is all")


def die(status: int) -> None:
    os._exit(status)


def crash(_body: Any) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def characters(count: int) -> str:
    return "x" * count


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def pid(_body: Any) -> int:
    return os.getpid()


def has_twisted(_body: Any) -> bool:
    return "twisted" in sys.modules


def arrive_and_wait(fifos: dict[str, str]) -> int:
    """Say on one FIFO that this runs, wait on the other for leave to answer, and answer with this process's id."""
    arrived, go = os.open(fifos["arrived"], os.O_WRONLY), os.open(fifos["go"], os.O_RDWR)
    os.write(arrived, f"{os.getpid()}\n".encode())
    os.read(go, 1)
    os.close(arrived)
    os.close(go)
    return os.getpid()


def leave_a_process(fifos: dict[str, str]) -> None:
    """Start a program that outlives the job, and have it say its id."""
    subprocess.Popen(["/bin/sh", "-c", f"echo $$ > {fifos['arrived']}; read line < {fifos['go']}"])


def leave_a_daemon(fifos: dict[str, str]) -> None:
    """Start a program that goes its own way, with all that it inherits."""
    script = f"echo $$ > {fifos['arrived']}; read line < {fifos['go']}"
    os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ, setsid=True)


def signals_are_left_alone(_body: Any) -> str:
    """Get what a terminal and a service manager send, and go on."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), number)
    # A program that it starts is not as deaf.
    program = subprocess.run(["/bin/sh", "-c", "kill -TERM $$"])
    return signal.Signals(-program.returncode).name


# Coroutines and Deferreds


async def on_asyncio(number: int) -> int:
    async with asyncio.timeout(5):
        await asyncio.sleep(0)
    return number + 1


async def fail_on_asyncio(reason: str) -> None:
    await asyncio.sleep(0)
    _fail_deeper(reason)


async def cancelled(_body: Any) -> None:
    raise asyncio.CancelledError


def returns_deferred(number: int) -> Any:
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    return deferLater(reactor, 0, double, number)


async def on_both(number: int) -> int:
    from twisted.internet import reactor
    from twisted.internet.task import deferLater
    from twisted.internet.threads import deferToThread

    number = await deferLater(reactor, 0, double, number)
    await asyncio.sleep(0)
    return await deferToThread(double, number)


async def runs_a_program(text: str) -> str:
    from twisted.internet.utils import getProcessOutput

    return str(await getProcessOutput("/bin/echo", [text]), "ascii")


async def signals_with_a_reactor(number: int) -> int:
    """Get what a service manager sends, with a reactor that would end on it."""
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    for signum in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), signum)
    await deferLater(reactor, 0, double, number)
    return await deferLater(reactor, 0, double, number)


def deferred_that_fails(reason: str) -> Any:
    from twisted.internet.defer import Deferred

    deferred: Any = Deferred()
    deferred.addCallback(lambda _: _fail_deeper(reason))
    deferred.callback(None)
    return deferred


def never_ends(_body: Any) -> None:
    """Answer, and leave a thread that keeps the process."""
    threading.Thread(target=threading.Event().wait).start()
