"""Functions for the workers of the tests, imported in their child processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

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
    """Raise TryAgain the first time; succeed once *mark* exists."""
    if Path(mark).exists():
        return "at last"
    Path(mark).touch()
    raise TryAgain("not yet")


def tell(body: Any) -> Any:
    """Report each item as progress, then one report that is too large; return the error for that one."""
    for item in body:
        progress(item)
    try:
        progress("x" * 2_000_000)
    except BodyError as error:
        return str(error)
    return "no error"


def leave_a_talker(_body: Any) -> None:
    """Leave a thread that reports progress after the end of the job."""

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
    """Write to one FIFO that the job runs, wait for the other FIFO, and answer with this process's id."""
    arrived, go = os.open(fifos["arrived"], os.O_WRONLY), os.open(fifos["go"], os.O_RDWR)
    os.write(arrived, f"{os.getpid()}\n".encode())
    os.read(go, 1)
    os.close(arrived)
    os.close(go)
    return os.getpid()


def leave_a_process(fifos: dict[str, str]) -> None:
    """Start a program that outlives the job, and print its id."""
    subprocess.Popen(["/bin/sh", "-c", f"echo $$ > {fifos['arrived']}; read line < {fifos['go']}"])


def leave_a_daemon(fifos: dict[str, str]) -> None:
    """Start a program that becomes a daemon and keeps all inherited descriptors."""
    script = f"echo $$ > {fifos['arrived']}; read line < {fifos['go']}"
    os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ, setsid=True)


def signals_are_left_alone(_body: Any) -> str:
    """Receive the signals of a terminal and of a service manager, and go on."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), number)
    # A program that the function starts does not ignore them.
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
    """Receive a service manager's SIGTERM while a reactor runs that would stop on it."""
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
    """Answer, and leave a thread that keeps the process alive."""
    threading.Thread(target=threading.Event().wait).start()


# Forks


def fork(way: str) -> int:
    """Fork, end the new process in the given way, and return its exit status."""
    process_id = os.fork()
    if process_id:
        return _status_of(process_id)
    return _leave(way)


def _status_of(process_id: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1])


def _leave(way: str) -> int:
    if way == "raise":
        raise LookupError("in the fork")
    if way == "return":
        return 0
    if way == "_exit 4":
        os._exit(4)
    if way == "exec":
        os.execv("/bin/sh", ["sh", "-c", "exit 5"])
    sys.exit({"exit": None, "exit 0": 0, "exit 3": 3, "exit text": "no more"}[way])


async def fork_in_a_coroutine(way: str) -> int:
    await asyncio.sleep(0)
    return fork(way)


async def fork_after_twisted(way: str) -> int:
    """Fork while Twisted's reactor runs with other work pending."""
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    await deferLater(reactor, 0, double, 1)
    return fork(way)


def fork_in_a_thread(way: str) -> int:
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(fork(way)))
    thread.start()
    thread.join()
    return statuses[0]


def fork_without_python(way: str) -> int:
    """Fork as a library in another language does, without Python's hooks."""
    import ctypes

    process_id = ctypes.PyDLL(None).fork()
    if process_id:
        return _status_of(process_id)
    progress("from the fork")
    return _leave(way)


def _become_daemon() -> None:
    """Start a new session, and close the standard streams, which the tests read to their end."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def fork_twice(fifos: dict[str, str]) -> None:
    """Fork a daemon into its own session; it keeps every inherited descriptor."""
    process_id = os.fork()
    if process_id == 0:
        _become_daemon()
        if os.fork() == 0:
            arrive_and_wait(fifos)
        os._exit(0)
    os.waitpid(process_id, 0)


def fork_and_die(fifos: dict[str, str] | None) -> None:
    """Leave a daemon that Python's fork hooks have not prepared, and kill this process."""
    import ctypes

    there, here = os.pipe()
    if ctypes.PyDLL(None).fork() == 0:
        _become_daemon()
        os.write(here, b".")
        if fifos is not None:
            arrive_and_wait(fifos)
        os._exit(0)
    os.read(there, 1)  # The worker ends every process in this process group.
    os._exit(7)


def fork_at_exit(path: str) -> str:
    """Return the names of the functions that a forked process called at exit."""
    import atexit

    def note(who: str) -> None:
        with Path(path).open("a") as file:
            file.write(f"{who};")

    atexit.register(note, "parent's")
    if os.fork() == 0:
        atexit.register(note, "fork's")
        sys.exit()
    os.wait()
    return Path(path).read_text()


def fork_and_signal(number: int) -> int:
    """Send a forked process a signal, and return its exit status."""
    there, here = os.pipe()
    process_id = os.fork()
    if process_id == 0:
        os.write(here, b".")
        threading.Event().wait()
    if number == signal.SIGINT:
        os.read(there, 1)  # Python cannot raise KeyboardInterrupt during a fork.
    os.kill(process_id, number)
    return _status_of(process_id)


def processes_of_multiprocessing(numbers: list[int]) -> list[int]:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(double, numbers)


def say_and_fork(text: str) -> None:
    sys.stdout.write(text)
    fork("exit")


# Jobs that harm their process


def close_descriptors(most: int) -> str:
    os.closerange(0, most)
    return "closed"


def write_to_pipes(data: str) -> None:
    """Write to every pipe of this process, as a program with a wrong descriptor does."""
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if int(one.name) > 2 and str(one.readlink()).startswith("pipe:"):
                os.write(int(one.name), data.encode("latin-1"))


def descriptors(_body: Any) -> list[str]:
    """Return the targets of this process's descriptors."""
    found = []
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(f"{one.name} {one.readlink()}")
    return found


class WithoutAnything(BaseException):
    __notes__ = property(lambda self: 1 / 0)

    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


EXCEPTIONS = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "SystemExit": SystemExit,
    "RecursionError": RecursionError,
    "MemoryError": MemoryError,
    "StopIteration": StopIteration,
    "WithoutAnything": WithoutAnything,
}


def throw(name: str) -> None:
    raise EXCEPTIONS[name]


def recurse(_body: Any) -> Any:
    return recurse(_body)


def nested(depth: int) -> Any:
    answer: Any = 1
    for _ in range(depth):
        answer = [answer]
    return answer


def raw(text: str) -> Any:
    return msgspec.Raw(text.encode())


def move_away(_body: Any) -> None:
    """Change directory, replace signal handlers, and exit."""
    os.chdir("/")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)


def fork_and_both_return(body: Any) -> Any:
    """Return from the job in both processes of a fork, each with its own answer."""
    if os.fork() == 0:
        return "the fork's answer"
    return body


def harm(body: Any) -> Any:
    """Harm this process in the way that *body* names, or wait."""
    if isinstance(body, dict):
        return arrive_and_wait(body)
    name, value = body
    return globals()[name](value)
