"""The command line of `twistd gloom` in memory: gloom.tap."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.application.service import IServiceMaker, MultiService
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, formatEvent
from twisted.plugin import getPlugins

import gloom
from gloom.errors import StartupError
from gloom.reactor import IReactor
from gloom.server.access import hash_token
from gloom.server.endpoints import BACKLOG
from gloom.server.protocols import MasterProtocol, SlaveProtocol
from gloom.server.reload import Reload
from gloom.server.service import BrokerService, memory_surroundings
from gloom.server.surroundings import Surroundings
from gloom.settings import GIB, MIB, Settings
from gloom.tap import LIMITS, Options, Parts, make_service, makeService, read_parts
from gloom.wire.framereader import to_frame
from tests.support.authority import Authority
from tests.support.deployment import CHECKOUT
from tests.support.in_memory import carry, connect
from tests.support.logged import logged


@pytest.fixture(autouse=True)
def nothing_outlives_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """makeService changes sys.excepthook, the collector and the reactor's clock, and would notify systemd."""
    monkeypatch.setattr("gloom.tap.make_monotonic", lambda reactor: None)
    monkeypatch.setattr("gloom.tap._settle_memory", lambda: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(list(arguments))
    return options


def parts_of(*arguments: str) -> Parts:
    return read_parts(parsed(*arguments), cast(IReactor, MemoryReactorClock()))


def settings(*arguments: str) -> Settings:
    return parts_of(*arguments).settings


def broker_in(top: Any) -> BrokerService:
    (broker,) = [service for service in top if isinstance(service, BrokerService)]
    return broker


def started(*arguments: str) -> tuple[BrokerService, MemoryReactorClock]:
    """Return the broker of ``twistd gloom`` with *arguments*, listening in memory."""
    memory = MemoryReactorClock()
    reactor = cast(IReactor, memory)
    top: Any = make_service(read_parts(parsed(*arguments), reactor), reactor)
    top.privilegedStartService()
    top.startService()
    return broker_in(top), memory


def tcp_servers(*arguments: str) -> list[tuple[str, int, str]]:
    """Return (protocol, port, interface) of each listening server."""
    servers = started(*arguments)[1].tcpServers
    return [(factory.logPrefix(), port, interface) for port, factory, _, interface in servers]  # type: ignore[attr-defined]


def refusal(*arguments: str) -> str:
    """Return the one-line error for *arguments*."""
    with pytest.raises(SystemExit) as raised:
        makeService(parsed(*arguments))
    # The text goes to standard error, and the status is 1.
    assert isinstance(raised.value.code, str)
    assert "\n" not in raised.value.code
    assert raised.value.code.startswith("twistd gloom: ")
    assert raised.value.code.endswith(" (see twistd gloom --help)")
    return raised.value.code.removeprefix("twistd gloom: ").removesuffix(" (see twistd gloom --help)")


# Listening ports


def test_without_options_the_ports_of_2009_listen_on_loopback() -> None:
    """Masters connect to 9998 and slaves to 9999, from this host."""
    assert tcp_servers() == [("MasterProtocol", 9998, "127.0.0.1"), ("SlaveProtocol", 9999, "127.0.0.1")]


def test_a_port_number_replaces_the_default() -> None:
    """--master-port and --slave-port take a number."""
    assert tcp_servers("--master-port", "7001", "--slave-port=7002") == [
        ("MasterProtocol", 7001, "127.0.0.1"),
        ("SlaveProtocol", 7002, "127.0.0.1"),
    ]


def test_a_port_may_be_given_more_than_once() -> None:
    """Each --master-port adds a port for masters, in place of the default."""
    assert tcp_servers("--master-port=7001", "--master-port=7003", "--slave-port=7002") == [
        ("MasterProtocol", 7001, "127.0.0.1"),
        ("MasterProtocol", 7003, "127.0.0.1"),
        ("SlaveProtocol", 7002, "127.0.0.1"),
    ]


@pytest.mark.parametrize("interface", ["0.0.0.0", "10.0.0.5", "::", "::1", "2001:db8::5"])
def test_interface_says_where_port_numbers_listen(interface: str) -> None:
    """--interface takes an IPv4 or IPv6 address, for both ports."""
    assert tcp_servers("--interface", interface) == [
        ("MasterProtocol", 9998, interface),
        ("SlaveProtocol", 9999, interface),
    ]


def test_interface_has_a_short_form() -> None:
    """-i is --interface."""
    assert tcp_servers("-i", "0.0.0.0")[0] == ("MasterProtocol", 9998, "0.0.0.0")


def test_interface_leaves_endpoint_descriptions_alone() -> None:
    """A description next to a port number keeps its own interface."""
    assert tcp_servers("--interface=10.0.0.5", r"--master-port=tcp6:7001:interface=\:\:1", "--slave-port=7002") == [
        ("MasterProtocol", 7001, "::1"),
        ("SlaveProtocol", 7002, "10.0.0.5"),
    ]


def test_a_port_number_has_room_for_a_farm_that_connects_at_once() -> None:
    """The backlog of connections to accept is longer than Twisted's 50."""
    assert [backlog for _, _, backlog, _ in started()[1].tcpServers] == [BACKLOG, BACKLOG]
    assert BACKLOG >= 1000


def test_a_unix_socket_is_an_endpoint_description() -> None:
    """unix:PATH:mode=660 listens on a socket file."""
    _, reactor = started("--master-port=unix:/run/gloom/masters.sock:mode=660")
    ((path, factory, _, mode, _),) = reactor.unixServers
    assert (path, mode) == ("/run/gloom/masters.sock", 0o660)
    assert factory.logPrefix() == "MasterProtocol"


def test_spaces_around_a_port_do_not_matter() -> None:
    """Spaces around a port, as in a value from a file, are ignored."""
    assert tcp_servers("--master-port= 7001 ")[0] == ("MasterProtocol", 7001, "127.0.0.1")


def test_options_are_texts() -> None:
    """Parsing checks no value, reads no file and builds nothing: each option keeps the text of the command line."""
    options = parsed("--retries=many", "--access=/absent", "--tls-key=/absent", "--master-port=at", "--interface=x")
    texts = [options[name] for name in ("retries", "access", "tls-key", "master-port", "interface")]
    assert texts == ["many", "/absent", "/absent", ["at"], "x"]
    assert {type(options[name]) for name, _ in LIMITS} == {str}


def test_the_global_reactor_is_used() -> None:
    """twistd calls makeService with the options alone; the daemon runs in the installed reactor."""
    from twisted.internet import reactor

    top: Any = makeService(parsed())
    assert [service._reactor for service in broker_in(top).listeners] == [reactor, reactor]


# Accepted options


def test_without_options_the_documented_limits_hold() -> None:
    """16 MiB a frame, three retries, any job type or none, and a quiet log."""
    assert settings() == Settings(max_frame_bytes=16 * MIB, retries=3, require_type=False, verbose=False)


@pytest.mark.parametrize("frame_bytes", [1024, 64 * MIB, 2 * GIB])
def test_max_frame_bytes_is_taken(frame_bytes: int) -> None:
    """--max-frame-bytes takes 1 KiB to 2 GiB, and connections have that limit."""
    broker, _ = started("--max-frame-bytes", str(frame_bytes))
    limits = [factory.buildProtocol(None).MAX_LENGTH for factory in (broker.masters, broker.slaves)]
    assert limits == [frame_bytes, frame_bytes]


@pytest.mark.parametrize("retries", [0, 1, 100])
def test_retries_is_taken(retries: int) -> None:
    """--retries takes 0 to 100."""
    assert settings(f"--retries={retries}").retries == retries


def test_without_retries_a_lost_slave_fails_its_job() -> None:
    """With --retries 0 the job of a lost slave fails."""
    broker, reactor = started("--retries=0")
    master, slave = connect(broker.masters), connect(broker.slaves)
    for near, message in (
        (slave[0], b'{"action":"join","type":"t"}'),
        (master[0], b'{"action":"submit","id":1,"type":"t","body":2}'),
    ):
        near.write(to_frame(message))
        carry(*master, *slave)
    slave[0].loseConnection()
    carry(*slave)
    reactor.advance(0)
    carry(*master)
    assert b'"error":"job_failed"' in master[0].protocol.received  # type: ignore[union-attr]


def test_require_type_is_taken() -> None:
    """--require-type is a flag."""
    assert settings("--require-type").require_type


@pytest.mark.parametrize(("arguments", "lines"), [([], 0), (["--verbose"], 1), (["-v"], 1)])
def test_refused_requests_are_logged_only_on_demand(arguments: list[str], lines: int) -> None:
    """A misbehaving client adds no log lines, unless --verbose asks for refused requests."""
    broker, _ = started(*arguments)
    ends = connect(broker.masters)
    with logged("gloom.server.protocols") as events:
        ends[0].write(to_frame(b'{"action":"sing"}'))
        carry(*ends)
    assert len(events) == lines
    for event in events:
        assert event["log_level"] is LogLevel.debug
        assert formatEvent(event).startswith("127.0.0.1:9998: unknown_action: ")
    ends[0].abortConnection()


# Refused options


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--bogus"], "option --bogus not recognized"),
        (["-x"], "option -x not recognized"),
        (["--retries"], "option --retries requires argument"),
        (["--require-type=yes"], "option --require-type must not have an argument"),
        (["9998"], "unexpected argument '9998'"),
        (["--retries=x"], "--retries must be a whole number, got 'x'"),
        (["--retries="], "--retries must be a whole number, got ''"),
        (["--retries=1.5"], "--retries must be a whole number, got '1.5'"),
        (["--retries=-1"], "--retries must be 0 to 100, got -1"),
        (["--retries=101"], "--retries must be 0 to 100, got 101"),
        (["--max-frame-bytes=16M"], "--max-frame-bytes must be a whole number, got '16M'"),
        (["--max-frame-bytes=1023"], "--max-frame-bytes must be 1024 to 2147483648, got 1023"),
        (["--max-frame-bytes=2147483649"], "--max-frame-bytes must be 1024 to 2147483648, got 2147483649"),
        (["--interface=eth0"], "--interface must be an IP address such as 0.0.0.0 or ::, got 'eth0'"),
        (["--interface="], "--interface must be an IP address such as 0.0.0.0 or ::, got ''"),
        (["--interface=localhost"], "--interface must be an IP address such as 0.0.0.0 or ::, got 'localhost'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_one_line(arguments: list[str], text: str) -> None:
    """The one line names the option, its allowed values and the given value, without usage or traceback."""
    assert refusal(*arguments) == text


@pytest.mark.parametrize("option", ["--master-port", "--slave-port"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "Unknown endpoint type: ''"),
        ("abc", "Unknown endpoint type: 'abc'"),
        ("-1", "Unknown endpoint type: '-1'"),
        ("127.0.0.1:9998", "Unknown endpoint type: '127.0.0.1'"),
        ("65536", "a port is 0 to 65535"),
        ("tcp:65536", "a port is 0 to 65535"),
        ("tcp:port=65536", "a port is 0 to 65535"),
        ("tcp6:99999", "a port is 0 to 65535"),
        ("tcp:abc", "invalid literal for int() with base 10: 'abc'"),
        ("tcp", "missing 1 required positional argument"),
        ("tcp:1:2:3:4", "positional arguments"),
        ("tcp:1:colour=red", "unexpected keyword argument 'colour'"),
        ("unix", "missing 1 required positional argument"),
        ("ssl:1:privateKey=/absent.pem", "/absent.pem"),
        ("tls:/absent:1", "'/absent' is not a directory of certificates"),
        ("systemd:domain=INET:name=absent", "no socket 'absent' was inherited from systemd"),
        ("systemd:domain=INET:index=3", "no socket of this index was inherited from systemd"),
        ("haproxy:tcp\\:9998\\:interface=127.0.0.1", "a part is missing"),
    ],
)
def test_a_wrong_port_is_one_line(option: str, value: str, problem: str) -> None:
    """A port that Twisted's parsers reject is one line with the option, the value and the reason."""
    line = refusal(f"{option}={value}")
    assert line.startswith(f"{option} must be a port number or a Twisted endpoint description, got {value!r}: ")
    assert problem in line


def test_an_interface_that_would_not_be_used_is_refused() -> None:
    """--interface is refused, and not ignored, if every port is an endpoint description."""
    text = refusal("--interface=0.0.0.0", "--master-port=tcp:1", "--slave-port=unix:/run/s.sock")
    assert text == "--interface goes with port numbers; an endpoint description has its own interface="


def test_a_directory_of_certificates_is_accepted(tmp_path: Path) -> None:
    """tls:DIRECTORY:PORT is an endpoint description like others."""
    (endpoint,) = parts_of(f"--master-port=tls:{tmp_path}:9998").ports.masters
    assert endpoint is not None


# Output


def test_help_names_every_option_with_its_default() -> None:
    """--help gives each option's meaning, range and default."""
    text = " ".join(str(Options()).split())
    for option, words in {
        "--master-port=": "[default: 9998]",
        "--slave-port=": "[default: 9999]",
        "--interface=": "[default: 127.0.0.1]",
        "--max-frame-bytes=": "1024 to 2147483648 [default: 16777216]",
        "--retries=": "0 to 100 [default: 3]",
        "--require-type": "refuse jobs without a type",
        "--verbose": "log every refused request",
        "--version": "version",
    }.items():
        assert words in text.partition(f"{option} ")[2].partition(" --")[0], option
    assert "A port number listens on loopback only" in text


def test_version_is_gloom_s(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints gloom's version, not only Twisted's, and ends with status 0."""
    with pytest.raises(SystemExit) as raised:
        parsed("--version")
    assert raised.value.code == 0
    assert capsys.readouterr().out.startswith(f"gloom {gloom.__version__} (Twisted ")


def test_twistd_finds_one_gloom() -> None:
    """The plugin names this module and its two parts."""
    makers: list[Any] = list(getPlugins(IServiceMaker))
    (maker,) = [plugin for plugin in makers if plugin.tapname == "gloom"]
    assert maker.module == "gloom.tap"
    assert maker.options is Options
    assert maker.makeService is makeService


def test_the_service_ties_both_ports_to_one_broker() -> None:
    """makeService returns one MultiService; masters and slaves meet in one broker."""
    top = makeService(parsed())
    assert isinstance(top, MultiService)
    broker = broker_in(top)
    assert broker.masters.around is broker.slaves.around
    assert isinstance(broker.masters.buildProtocol(None), MasterProtocol)
    assert isinstance(broker.slaves.buildProtocol(None), SlaveProtocol)


@pytest.fixture
def uncaught(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[type[BaseException]]]:
    """The exceptions that reach the hook installed before gloom's."""
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, traceback: seen.append(kind))
    makeService(parsed())
    yield seen


def test_a_failed_start_prints_one_line(
    uncaught: list[type[BaseException]], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A StartupError that ends the process prints its text, without a traceback."""
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    sys.excepthook(StartupError, StartupError("cannot listen"), None)
    assert capfd.readouterr().err == "gloom: cannot listen\n"
    assert uncaught == []


def test_any_other_exception_keeps_its_traceback(uncaught: list[type[BaseException]]) -> None:
    """A bug that ends the process is shown in full."""
    sys.excepthook(ValueError, ValueError("a bug"), None)
    assert uncaught == [ValueError]


# Access and TLS

ACCESS = f"""
[[identity]]
name = "shop"
token_sha256 = "{hash_token("shop's")}"
roles = ["master"]
types = ["*"]
"""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def access_file(tmp_path: Path) -> Path:
    file = tmp_path / "access.toml"
    file.write_text(ACCESS)
    return file


def reload_of(*arguments: str) -> tuple[Reload, Surroundings]:
    """Return the function that SIGHUP calls, and the access rules for new connections."""
    parts = parts_of(*arguments)
    around = memory_surroundings(parts.settings, MemoryReactorClock(), parts.access)
    return Reload(around, parts.access_file, parts.tls), around


def field_of(option: str) -> str:
    return option.replace("-", "_")


def reloaded(reload: Reload) -> list[str]:
    """Return the log lines of one SIGHUP."""
    with logged("gloom.server.reload") as events:
        reload()
    return [f"{event['log_level'].name} {formatEvent(event)}" for event in events]


@pytest.mark.parametrize("option", [option for option, _ in LIMITS])
def test_every_limit_is_taken_and_checked(option: str) -> None:
    """Each limit reaches the settings, is refused below its range, and is a number."""
    default = getattr(Settings, field_of(option))
    other = default / 2 if isinstance(default, float) else default + 1
    assert getattr(settings(f"--{option}={other}"), field_of(option)) == other
    assert refusal(f"--{option}=-1").startswith(f"--{option} must be ")
    assert refusal(f"--{option}=many").endswith("number, got 'many'")


def test_the_page_for_operators_has_every_limit_with_its_default() -> None:
    """The table in docs/operations.md is the list of limits, in the same order."""
    text = (CHECKOUT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `--([a-z-]+)` \| ([0-9.]+) \|", text, re.MULTILINE)
    assert rows == [(option, str(getattr(Settings, field_of(option)))) for option, _ in LIMITS]


def test_access_rules_hold_for_connections(access_file: Path) -> None:
    """With --access a stranger's first request is refused, and its connection closed."""
    broker, _ = started(f"--access={access_file}")
    ends = connect(broker.masters)
    ends[0].write(to_frame(b'{"action":"submit","id":1,"type":"t","body":2}'))
    carry(*ends)
    assert b'"error":"unauthorized"' in ends[0].protocol.received  # type: ignore[union-attr]
    assert not ends[0].connected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "--access: cannot read {file}: No such file or directory"),
        ("identity", "--access: {file} is not TOML: "),
        ("", "--access: {file} must hold [[identity]] entries, one or more, and nothing else"),
        (ACCESS.replace("master", "king"), '--access: {file}: identity 1: roles must be a list of "master", "slave"'),
    ],
    ids=["absent", "no TOML", "empty", "role"],
)
def test_a_wrong_access_file_is_one_line(text: str | None, problem: str, tmp_path: Path) -> None:
    """The line names the file and the fault in it."""
    file = tmp_path / "access.toml"
    if text is not None:
        file.write_text(text)
    assert refusal(f"--access={file}").startswith(problem.format(file=file))


def test_an_option_for_a_file_that_is_empty_is_refused() -> None:
    """An empty file name, as from an unset variable, is refused, so that it does not turn off access rules or TLS."""
    assert refusal("--access=").startswith("--access: cannot read ")
    assert refusal("--tls-cert=").startswith("--tls-cert: cannot read ")
    assert refusal("--tls-client-ca=") == "--tls-key and --tls-client-ca go with --tls-cert"


def test_wrong_tls_files_are_one_line(authority: Authority, tmp_path: Path) -> None:
    """The line names the option and the file."""
    certificate, key = authority.issue("broker.test", "server")
    absent = tmp_path / "absent.pem"
    assert refusal(f"--tls-cert={absent}") == f"--tls-cert: cannot read {absent}: No such file or directory"
    assert refusal(f"--tls-cert={certificate}", f"--tls-key={absent}").startswith("--tls-key: cannot read ")
    assert refusal(f"--tls-key={key}") == "--tls-key and --tls-client-ca go with --tls-cert"


@pytest.mark.parametrize("kind", ["ssl", "tls"])
def test_tls_is_not_put_into_tls(kind: str, authority: Authority, tmp_path: Path) -> None:
    """--tls-cert is refused beside an endpoint description with TLS of its own."""
    certificate, key = authority.issue("broker.test", "server")
    value = f"ssl:1:privateKey={key}:certKey={certificate}" if kind == "ssl" else f"tls:{tmp_path}:1"
    text = refusal(f"--tls-cert={certificate}", f"--tls-key={key}", f"--master-port={value}")
    assert text.endswith(": it has TLS of its own, which does not go with --tls-cert")


def test_all_ports_have_the_tls_of_the_options(authority: Authority) -> None:
    """--tls-cert applies to every port of both roles; without it, only endpoint descriptions with TLS have it."""
    certificate, key = authority.issue("broker.test", "server")
    files = f"--tls-cert={certificate}", f"--tls-key={key}"
    ports = "--master-port=7001", "--master-port=unix:/run/m.sock", "--slave-port=tcp6:7002"
    assert len(parts_of(*files, *ports).ports.encrypted) == 3
    assert parts_of(*ports).ports.encrypted == []
    own = f"--master-port=ssl:1:privateKey={key}:certKey={certificate}"
    own_tls = parts_of(own).ports
    assert own_tls.encrypted == own_tls.masters


def test_a_reload_takes_new_access_rules(access_file: Path) -> None:
    """After SIGHUP the tokens of the changed file are accepted, and removed tokens are not."""
    reload, around = reload_of(f"--access={access_file}")
    access_file.write_text(ACCESS.replace(hash_token("shop's"), hash_token("new")))
    assert reloaded(reload) == ["info SIGHUP: access rules and certificates are read again, for new connections"]
    assert around.access is not None
    assert around.access.with_token("new") is not None
    assert around.access.with_token("shop's") is None


def test_a_reload_of_a_wrong_file_changes_nothing(access_file: Path) -> None:
    """The old rules stay, and one error line names the fault."""
    reload, around = reload_of(f"--access={access_file}")
    before = around.access
    access_file.write_text("")
    (line,) = reloaded(reload)
    assert line.startswith(f"error SIGHUP: nothing is changed: access: {access_file} must hold ")
    assert around.access is before


def test_a_reload_takes_both_files_or_none(access_file: Path, authority: Authority) -> None:
    """If the certificate is wrong, the old access rules stay too, and the line says so."""
    certificate, key = authority.issue("broker.test", "server")
    reload, around = reload_of(f"--access={access_file}", f"--tls-cert={certificate}", f"--tls-key={key}")
    before = around.access
    certificate.unlink()
    (line,) = reloaded(reload)
    assert line.startswith("error SIGHUP: nothing is changed: tls-cert: cannot read ")
    assert around.access is before
    authority.issue("broker.test", "server")
    assert reloaded(reload)[0].startswith("info ")
    assert around.access is not before


def test_a_reload_without_files_says_so() -> None:
    """Without files to reload, SIGHUP logs that, and changes nothing."""
    reload, _ = reload_of()
    assert reloaded(reload) == ["info SIGHUP: there is nothing to read again without --access and --tls-cert"]


def test_a_file_is_found_again_after_a_change_of_directory(access_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name is relative to the folder of the start, even when twistd changes directory (--rundir)."""
    monkeypatch.chdir(access_file.parent)
    reload, _ = reload_of(f"--access={access_file.name}")
    monkeypatch.chdir("/")
    assert reloaded(reload)[0].startswith("info ")
