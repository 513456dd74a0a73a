"""
Real faults under load: processes that stand still, a bad network, clocks that jump, no descriptors, a full disk.

Beside each fault good peers of every kind are at work (`verify.reliability.crowd`):
masters and slaves of the Deferred client, of the blocking client and on plain
sockets. Each job must have one outcome, the right one, and the broker may drop
no peer that behaves: its log has no such line. `verify.reliability.chaos` runs them all.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

from tests.support.commands import GLOOM
from tests.support.daemon import TWISTD
from tests.support.peer import OK, Peer
from verify.reliability import proxy
from verify.reliability.crowd import MASTERS, SLAVES, Member
from verify.reliability.figures import MIB, show
from verify.reliability.jobs import TYPE
from verify.reliability.nursery import environment
from verify.reliability.proxy import Proxy

HEARTBEAT_SECONDS = 2.0
WARM_SECONDS = 0.5
STARTING_SECONDS = 30.0
HOUR_SECONDS = 3600
# Attempts that faults may take from one job: that a job fails after four is a promise kept, and not counted here.
RETRIES = "--retries=100"
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


class NotPossible(Exception):
    """This system has not what a fault needs; the text says what."""


class FaultyBroker:
    """
    A broker whose surroundings are not as usual; use it as a context manager.

    Args:
        directory: Where it runs, and its log is.
        options: Of ``twistd gloom``, without ports.
        prefix: What the command begins with.
        names: Additions to its environment.
        log: Where it logs; a file of *directory* by default.

    Attributes:
        master_port: On this host.
        slave_port: On this host.
        process: The process.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        prefix: Sequence[str] = (),
        names: dict[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.master_port, self.slave_port = _free_ports(2)
        self.log = directory / f"broker-{self.master_port}.log" if log is None else log
        ports = [f"--master-port={self.master_port}", f"--slave-port={self.slave_port}"]
        self._command = [*prefix, str(TWISTD), "--nodaemon", "--pidfile=", f"--logfile={self.log}", "gloom"]
        self._command += [*ports, *options]
        self._directory, self._names = directory, names or {}

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            cwd=self._directory,
            env=os.environ | self._names,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: _is_heard(self.slave_port) and _is_heard(self.master_port), "the broker does not listen")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    def dropped(self) -> list[str]:
        """Return the lines of its log about peers that it dropped, and about its bugs."""
        if not self.log.is_file():
            return []
        lines = self.log.read_text(errors="replace").splitlines()
        return [line[:300] for line in lines if ": dropped: " in line or "a bug in gloom" in line]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as sockets:
        found = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]


def _is_heard(port: int) -> bool:
    try:
        with Peer.tcp(port) as peer:
            return bool(peer.ask({"action": "no"})["error"] == "unknown_action")
    except OSError:
        return False


def until(holds: Callable[[], object], what: str, seconds: float = STARTING_SECONDS) -> None:
    """
    Wait until something holds.

    Raises:
        AssertionError: It does not, in that time; *what* is the text.
    """
    late = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < late, what
        time.sleep(0.02)


class Crowd:
    """
    Good peers of every kind, at work; use it as a context manager.

    Args:
        master_port: Where masters connect, on this host.
        slave_port: Where slaves connect.
        kinds: Which of `MASTERS` and `SLAVES`; all by default.
        heartbeat_seconds: Of those that have one.
        prefix: What each command begins with.
        names: Additions to each environment.

    Attributes:
        members: By kind.
    """

    def __init__(
        self,
        master_port: int,
        slave_port: int,
        *,
        kinds: Sequence[str] = (*MASTERS, *SLAVES),
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        prefix: Sequence[str] = (),
        names: dict[str, str] | None = None,
    ) -> None:
        self._ports, self._kinds, self._heartbeat_seconds = (master_port, slave_port), kinds, heartbeat_seconds
        self._prefix, self._names = prefix, names
        self.members: dict[str, Member] = {}

    def __enter__(self) -> Self:
        for kind in self._kinds:
            port = self._ports[kind in SLAVES]
            self.members[kind] = Member(kind, port, self._heartbeat_seconds, self._prefix, self._names)
        for member in self.members.values():
            member.wait_until_ready()
        time.sleep(WARM_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for member in self.members.values():
            with member:
                member.kill()

    def finish(self, name: str) -> list[str]:
        """Have the masters end; show what they saw, and return what did not hold."""
        seen = {kind: self.members[kind].finish() for kind in self._kinds if kind in MASTERS}
        show(f"{name}: " + ", ".join(f"{one['submitted']} jobs of a {kind}" for kind, one in seen.items()))
        failures = [f"{name}: {kind}: {what}" for kind, one in seen.items() for what in one["failures"]]
        few = [
            f"{name}: a {kind} did only {one['submitted']} jobs" for kind, one in seen.items() if one["submitted"] < 20
        ]
        return failures + few


def among(
    name: str, broker: FaultyBroker, crowd: Crowd, fault: Callable[[], object], gone: Sequence[str] = ()
) -> list[str]:
    """
    Have a *fault* happen to peers at work, some time later let them end, and return what did not hold.

    Args:
        name: What it is called.
        broker: The broker that they use.
        crowd: The peers, at work.
        fault: Does it, and undoes it.
        gone: The names of peers that the broker may drop for it.
    """
    fault()
    time.sleep(WARM_SECONDS)
    failures = crowd.finish(name)
    wrong = [line for line in broker.dropped() if not any(f"{one}: dropped: " in line for one in gone)]
    return failures + [f"{name}: {line}" for line in wrong]


# Standing still


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """Have a process stand still; a signal alone would let it go on until it has a processor again."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T", "it goes on")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def stop(pid: int, seconds: float) -> None:
    """Have a process stand still for so long."""
    with standing_still(pid):
        time.sleep(seconds)


def stopped_broker(directory: Path, seconds: float) -> list[str]:
    """Stop the broker: nobody pinged too late, and no answer that was sent in time is late."""
    name = f"the broker stopped for {seconds:g} s"
    with FaultyBroker(directory, RETRIES) as broker, Crowd(broker.master_port, broker.slave_port) as crowd:
        failures = among(name, broker, crowd, lambda: stop(broker.pid, seconds))
    return failures + answered_meanwhile(directory, seconds)


def answered_meanwhile(directory: Path, seconds: float) -> list[str]:
    """Have a job answered, and a slave ping, while the broker stands still for longer than both may take."""
    name = f"an answer sent while the broker stood still for {seconds:g} s"
    limit = seconds / 2
    with (
        FaultyBroker(directory) as broker,
        Peer.tcp(broker.master_port) as master,
        Peer.tcp(broker.slave_port) as slave,
    ):
        hello = {"action": "hello", "version": 1, "heartbeat": limit}
        master.ask(hello), slave.ask(hello)
        assert slave.ask({"action": "join", "type": TYPE}) == OK
        job = {"action": "submit", "id": 1, "type": TYPE, "body": 1, "timeout": limit, "retries": 0}
        assert master.ask(job) == OK
        assert slave.receive()["id"] == 1
        # By then it waits for a socket or a timer, as a broker does for most of its life.
        time.sleep(0.05)
        with standing_still(broker.pid):
            slave.send({"action": "respond", "body": 2})
            ending = time.monotonic() + seconds
            while time.monotonic() < ending:
                for one in (slave, master):
                    one.send({"action": "ping"})
                time.sleep(limit / 4)
        outcome = _outcome_of(master)
        time.sleep(0.2)
        failures = [f"{name}: {line}" for line in broker.dropped()]
    show(f"{name}: the outcome is {outcome}")
    return failures + ([] if outcome == {"id": 1, "body": 2} else [f"{name}: the outcome is {outcome}"])


def _outcome_of(master: Peer) -> Any:
    try:
        while (message := master.receive()) is not None:
            if "id" in message:
                return message
    except OSError as error:
        return error
    return "the connection was closed"


def stopped_member(directory: Path, kind: str, seconds: float) -> list[str]:
    """Stop one peer: the broker drops it within its heartbeat, if it has one, and nobody else."""
    name = f"a {kind} stopped for {seconds:g} s"
    load_name = "load 0" if kind == "deferred-master" else kind
    with FaultyBroker(directory, RETRIES) as broker, Crowd(broker.master_port, broker.slave_port) as crowd:
        return among(name, broker, crowd, lambda: stop(crowd.members[kind].pid, seconds), gone=[load_name])


def stopped_slave_with_large_jobs(directory: Path, seconds: float, body_bytes: int = 4 * MIB) -> list[str]:
    """Have a slave take no byte of large jobs, and be silent: its heartbeat drops it all the same."""
    name, heartbeat_seconds, jobs = f"a silent slave with bodies of {body_bytes // MIB} MiB", 1.0, 8
    answered = 0
    with (
        FaultyBroker(directory) as broker,
        Peer.tcp(broker.master_port) as master,
        Peer.tcp(broker.slave_port) as silent,
        Peer.tcp(broker.slave_port) as other,
    ):
        silent.ask({"action": "hello", "version": 1, "heartbeat": heartbeat_seconds})
        assert silent.ask({"action": "join", "type": TYPE, "slots": jobs}) == OK
        for number in range(jobs):
            assert master.ask({"action": "submit", "id": number, "type": TYPE, "body": "x" * body_bytes}) == OK
        begun = time.monotonic()
        other.socket.settimeout(heartbeat_seconds + seconds)
        other.send({"action": "join", "type": TYPE})
        try:
            while answered < jobs and (message := other.receive()) is not None:
                if "body" in message:
                    other.send({"action": "respond", "body": 1})
                    answered += 1
        except TimeoutError:
            pass
        took = time.monotonic() - begun
    text = f"{name}: another slave had {answered} of {jobs} jobs after {took:.1f} s, heartbeat {heartbeat_seconds:g} s"
    show(text)
    return [] if answered == jobs else [text]


def stopped_child(directory: Path, seconds: float) -> list[str]:
    """Stop one of the processes of `gloom work`, then the command itself: their jobs are late, and right."""
    name = f"a child of gloom work stopped for {seconds:g} s, then the command"
    with FaultyBroker(directory, RETRIES) as broker:
        command = [str(GLOOM), "work", "-c", "2", "--slave", f"127.0.0.1:{broker.slave_port}"]
        with subprocess.Popen(
            [*command, "verify.reliability.member:increment"], env=environment(), stderr=subprocess.DEVNULL
        ) as work:
            try:
                until(lambda: len(_children(work.pid)) >= 2, "gloom work has no children")
                with Crowd(broker.master_port, broker.slave_port, kinds=MASTERS) as crowd:

                    def stop_both() -> None:
                        stop(_children(work.pid)[-1], seconds)
                        time.sleep(WARM_SECONDS)
                        stop(work.pid, seconds)

                    return among(name, broker, crowd, stop_both)
            finally:
                work.terminate()


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


# The network


def bad_network(
    directory: Path, seconds: float, ways: Sequence[str] = ("splits", "merges", "delays", "stalls", "resets")
) -> list[str]:
    """Have a network in between that splits, merges, delays, stalls and resets."""
    name = f"a network that {', '.join(ways)}, for {seconds:g} s each"
    with (
        FaultyBroker(directory, RETRIES) as broker,
        Proxy(broker.master_port) as masters,
        Proxy(broker.slave_port) as slaves,
        Crowd(masters.port, slaves.port) as crowd,
    ):

        def disturb() -> None:
            for way in ways:
                _disturb(way, (masters, slaves), seconds)

        return among(name, broker, crowd, disturb)


def _disturb(way: str, proxies: Sequence[Proxy], seconds: float) -> None:
    ending = time.monotonic() + seconds
    for one in proxies:
        one.merges = way == "merges"
        one.send = {"splits": proxy.split, "delays": proxy.delayed}.get(way, proxy.whole)
    while time.monotonic() < ending:
        for one in proxies:
            if way == "resets":
                one.reset()
            elif way == "stalls":
                # Shorter than a third of the heartbeat: nobody has been silent for too long.
                one.stall()
                time.sleep(HEARTBEAT_SECONDS / 4)
                one.flow()
        time.sleep(0.3)
    for one in proxies:
        one.merges, one.send = False, proxy.whole


# The clock


def clock_jumps(directory: Path, seconds: float, ways: Sequence[str] = ("forward", "back")) -> list[str]:
    """
    Set the wall clock of all processes forward or back by an hour or two: what was agreed in seconds stays so.

    Raises:
        NotPossible: There is no libfaketime.
    """
    if FAKETIME is None:
        raise NotPossible("there is no libfaketime (Debian: faketime)")
    clock = directory / "clock"
    _set_clock(clock, 0)
    names = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    failures = []
    with (
        FaultyBroker(directory, RETRIES, names=names) as broker,
        Crowd(broker.master_port, broker.slave_port, names=names) as crowd,
    ):

        def jump() -> None:
            for way in ways:
                failures.extend(_jumped(broker, clock, way, seconds))

        wrong = among(f"a clock set {' and '.join(ways)}", broker, crowd, jump)
    return failures + wrong


def _jumped(broker: FaultyBroker, clock: Path, way: str, seconds: float) -> list[str]:
    with Peer.tcp(broker.master_port) as master:
        timed = _Timed(master)
        _set_clock(clock, HOUR_SECONDS if way == "forward" else -HOUR_SECONDS)
        timed.wait(seconds)
    show(f"the clock set {way}: {timed.text}")
    return [f"the clock set {way}: {what}" for what in timed.failures]


def _set_clock(clock: Path, seconds: int) -> None:
    new = clock.with_suffix(".new")
    new.write_text(f"{seconds:+d}")
    new.rename(clock)


class _Timed:
    """Jobs of no slave, of which one ends after a second and a half and the other does not end here."""

    EXPIRES_SECONDS = 1.5

    def __init__(self, master: Peer) -> None:
        self._master = master
        self.failures: list[str] = []
        self.text = ""
        self._master.ask({"action": "hello", "version": 1})
        for id, expires in (("soon", self.EXPIRES_SECONDS), ("never", 600)):
            job = {"action": "submit", "id": id, "type": "of nobody", "body": 0, "expires": expires}
            assert self._master.ask(job) == OK
        self._begun = time.monotonic()

    def wait(self, seconds: float) -> None:
        ended = {}
        ending = self._begun + max(seconds, 2 * self.EXPIRES_SECONDS)
        while (left := ending - time.monotonic()) > 0:
            self._master.socket.settimeout(left)
            try:
                message = self._master.receive()
            except TimeoutError:
                break
            if message is None:
                self.failures.append("the connection was closed")
                break
            ended[message["id"]] = time.monotonic() - self._begun
        late = ended.get("soon", float("inf")) - self.EXPIRES_SECONDS
        if not -0.01 <= late <= 0.5:
            self.failures.append(f"a job that expires after {self.EXPIRES_SECONDS} s did so {late:.2f} s late")
        if "never" in ended:
            self.failures.append(f"a job that expires after 600 s did so after {ended['never']:.2f} s")
        self.text = f"a job that expires after {self.EXPIRES_SECONDS} s did so {late:.3f} s late"


# What a system may run out of


def few_descriptors(directory: Path, seconds: float, limit: int = 64) -> list[str]:
    """Give the broker 64 descriptors and take all of them for a time; and give the peers 64."""
    few = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"]
    with (
        FaultyBroker(directory, RETRIES, prefix=few) as broker,
        Crowd(broker.master_port, broker.slave_port, prefix=few) as crowd,
        ExitStack() as others,
    ):

        def crowd_out() -> None:
            for _ in range(2 * limit):
                others.enter_context(socket.create_connection(("127.0.0.1", broker.master_port), 10))
            time.sleep(seconds)
            others.close()
            until(lambda: _is_heard(broker.master_port), "there is no room again")

        return among(f"{limit} descriptors", broker, crowd, crowd_out)


def full_disk(directory: Path, seconds: float) -> list[str]:
    """Let the log be on a full disk: the broker goes on without it."""
    with (
        FaultyBroker(directory, RETRIES, "--verbose", log=Path("/dev/full")) as broker,
        Crowd(broker.master_port, broker.slave_port) as crowd,
    ):

        def refuse() -> None:
            ending = time.monotonic() + seconds
            while time.monotonic() < ending:
                _is_heard(broker.master_port)  # a line of the log for each
                time.sleep(0.01)

        return among("a full disk for the log", broker, crowd, refuse)


# Large answers


def large_answers(directory: Path, slaves: int = 12, answer_bytes: int = 8 * MIB) -> list[str]:
    """Have twelve slaves answer 8 MiB at once to a master that does nothing but read."""
    name = f"{slaves} answers of {answer_bytes // MIB} MiB"
    with FaultyBroker(directory) as broker, Peer.tcp(broker.master_port) as master:
        threads = [Thread(target=_answer_one, args=(broker.slave_port, answer_bytes)) for _ in range(slaves)]
        for thread in threads:
            thread.start()
        for number in range(slaves):
            master.send({"action": "submit", "id": number, "type": TYPE, "body": 0})
        heard, problem = _read_outcomes(master.socket, slaves)
        for thread in threads:
            thread.join(10)
        dropped = broker.dropped()
    whole = sum(size > answer_bytes for size in heard)
    show(f"{name}: {whole} came to a master that reads all the time")
    wrong = [] if whole == slaves else [f"{name}: only {whole} came, {problem}"]
    return wrong + [f"{name}: {line}" for line in dropped]


def _answer_one(slave_port: int, answer_bytes: int) -> None:
    with Peer.tcp(slave_port) as slave:
        try:
            slave.ask({"action": "join", "type": TYPE})
            slave.receive()
            slave.ask({"action": "respond", "body": "x" * answer_bytes})
        except OSError:
            pass


def _read_outcomes(master: socket.socket, count: int) -> tuple[list[int], str]:
    """Return the sizes of the messages that are no replies."""
    master.settimeout(30)
    sizes: list[int] = []
    try:
        while len(sizes) < count:
            left = size = int.from_bytes(_exactly(master, 4))
            while left:
                left -= len(_exactly(master, min(left, 64 * 1024)))
            if size > 100:
                sizes.append(size)
    except OSError as error:
        return sizes, str(error)
    return sizes, ""


def _exactly(source: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = source.recv(length - len(data))
        if not piece:
            raise ConnectionError("the broker has closed the connection")
        data += piece
    return data


def mapped_large_answers(directory: Path, jobs: int = 16, answer_bytes: int = 8 * MIB) -> list[str]:
    """Have `gloom map` and `gloom work` do jobs with answers of 8 MiB."""
    name = f"gloom map and gloom work with {jobs} answers of {answer_bytes // MIB} MiB"
    with FaultyBroker(directory) as broker:
        work_command = [str(GLOOM), "work", "-c", "4", "--slave", f"127.0.0.1:{broker.slave_port}"]
        with subprocess.Popen(
            [*work_command, "verify.reliability.faults:large"], env=environment(), stderr=subprocess.DEVNULL
        ) as work:
            try:
                until(lambda: len(_children(work.pid)) >= 4, "gloom work has no children")
                lines = "".join(f"{answer_bytes + number}\n" for number in range(jobs))
                mapped = subprocess.run(
                    [str(GLOOM), "map", "--quiet", "--raw", "--master", f"127.0.0.1:{broker.master_port}", "large"],
                    input=lines.encode(),
                    capture_output=True,
                    timeout=180,
                    check=False,
                )
            finally:
                work.terminate()
        dropped = broker.dropped()
    sizes = sorted(map(len, mapped.stdout.split()))
    show(f"{name}: {len(sizes)} came")
    right = sizes == [answer_bytes + number for number in range(jobs)]
    wrong = [] if right else [f"{name}: {len(sizes)} came, {mapped.stderr.decode()[:300]}"]
    return wrong + [f"{name}: {line}" for line in dropped]


def large(body: int) -> str:
    """Answer with so many characters."""
    return "x" * body


def everything(directory: Path, *, quick: bool, names: str = "") -> list[str]:
    """Have all of it happen whose name has *names* in it, with a directory for each; return what did not hold."""
    failures: list[str] = []
    for number, (fault, arguments) in enumerate(all_faults((3.0,) if quick else (5.0, 30.0))):
        if names not in fault.__name__:
            continue
        here = directory / str(number)
        here.mkdir()
        try:
            failures += fault(here, *arguments)
        except NotPossible as error:
            show(f"{fault.__name__}: skipped: {error}")
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            failures.append(f"{fault.__name__}{arguments}: {type(error).__name__}: {error}")
    return failures


Fault = Callable[..., list[str]]


def all_faults(stops: Sequence[float]) -> Iterator[tuple[Fault, tuple[Any, ...]]]:
    """Yield what happens, with the times in *stops* for processes that stand still."""
    shortest = stops[0]
    for seconds in stops:
        yield stopped_broker, (seconds,)
        for kind in (*MASTERS, *SLAVES):
            yield stopped_member, (kind, seconds)
        yield stopped_child, (seconds,)
    yield stopped_slave_with_large_jobs, (shortest,)
    for fault in (bad_network, clock_jumps, few_descriptors, full_disk):
        yield fault, (shortest,)
    yield large_answers, ()
    yield mapped_large_answers, ()
