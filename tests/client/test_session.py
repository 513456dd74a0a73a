"""The client's side of the protocol, fed frame by frame: replies go to their requests, other messages become events."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloom.client.session import (
    Assignment,
    Event,
    Greeting,
    Outcome,
    Progressed,
    Quiet,
    Reply,
    Revocation,
    Session,
    UnreadableJob,
)
from gloom.errors import BodyError, JobFailed, ProtocolError, RequestRefused
from gloom.wire.bodies import decode_body, encode_body
from gloom.wire.messages import Join, Ping, Progress, Respond, Submit


def receive(session: Session, message: Any) -> Event | None:
    return session.receive(json.dumps(message).encode())


def submit(id: str | int, body: Any = None) -> Submit:
    return Submit(id, encode_body(body))


def test_a_request_becomes_the_payload_of_a_frame() -> None:
    """A request is one JSON object with its verb, and waits for its reply."""
    session = Session()
    payload = session.ask(Submit("a", encode_body({"n": 1}), "sum", 5))
    assert json.loads(payload) == {"action": "submit", "id": "a", "type": "sum", "priority": 5, "body": {"n": 1}}
    assert [type(request) for request in session.unanswered] == [Submit]


def test_a_request_that_json_cannot_carry_waits_for_no_reply() -> None:
    """A request that could not be encoded is not counted among those that the broker will answer."""
    session = Session()
    with pytest.raises(TypeError):
        session.ask(Join(object()))  # type: ignore[arg-type]
    assert not session.unanswered


def test_replies_answer_the_requests_in_their_order() -> None:
    """Each reply belongs to the oldest request that has none, whether it accepts or refuses."""
    session = Session()
    first, second, third = submit("a"), submit("b"), Ping()
    for request in (first, second, third):
        session.ask(request)
    replies = [
        receive(session, {"ok": True}),
        receive(session, {"error": "id_exists", "reason": "b"}),
        receive(session, {"ok": True}),
    ]
    assert [reply.request for reply in replies if isinstance(reply, Reply)] == [first, second, third]
    assert [isinstance(reply, Reply) and reply.error is None for reply in replies] == [True, False, True]
    assert not session.unanswered


def test_a_refusal_has_the_code_the_reason_and_the_id() -> None:
    """A refused submit gives an error with the broker's code, its reason and the job's id."""
    session = Session()
    session.ask(submit(7))
    reply = receive(session, {"error": "id_exists", "reason": "7"})
    assert isinstance(reply, Reply)
    assert isinstance(reply.error, RequestRefused)
    assert (reply.error.error, reply.error.reason, reply.error.id) == ("id_exists", "7", 7)
    assert str(reply.error) == "id_exists -> 7"


def test_a_refusal_of_a_request_without_an_id_has_none() -> None:
    """A refused respond concerns no job that is known by its id."""
    session = Session()
    session.ask(Respond(encode_body(1)))
    reply = receive(session, {"error": "invalid_state", "reason": "no job is in hand"})
    assert isinstance(reply, Reply)
    assert reply.error is not None
    assert reply.error.id is None


@pytest.mark.parametrize("ok", [True, "true"])
def test_both_forms_of_ok_are_accepted(ok: object) -> None:
    """The README of 2009 shows the string "true", its code sends the boolean: either is yes."""
    session = Session()
    session.ask(Ping())
    reply = receive(session, {"ok": ok})
    assert isinstance(reply, Reply)
    assert reply.error is None


@pytest.mark.parametrize("message", [{"ok": False}, {"ok": "yes"}, {"ok": None}, {}, {"body": 1}])
def test_a_reply_that_says_neither_yes_nor_no_breaks_the_protocol(message: Any) -> None:
    """A message without id and action must say ok, or an error."""
    session = Session()
    session.ask(Ping())
    with pytest.raises(ProtocolError, match="must have ok or error, got neither for Ping"):
        receive(session, message)


@pytest.mark.parametrize(("message", "shown"), [({"ok": True}, "True"), ({"error": "draining"}, "draining")])
def test_a_reply_to_no_request_breaks_the_protocol(message: Any, shown: str) -> None:
    """A reply without a request is an error that quotes the reply."""
    with pytest.raises(ProtocolError, match=f"replied to no request: {shown}"):
        receive(Session(), message)


def test_an_answer_is_not_a_reply() -> None:
    """A message with an id is a job's outcome, even while a reply is awaited."""
    session = Session()
    session.ask(submit("b"))
    outcome = receive(session, {"id": "a", "body": {"n": [1, 2]}})
    assert isinstance(outcome, Outcome)
    assert (outcome.id, decode_body(outcome.body), outcome.error) == ("a", {"n": [1, 2]}, None)
    assert len(session.unanswered) == 1


@pytest.mark.parametrize("id", ["a", 0, -3, 2**70])
def test_an_outcome_has_the_id_that_was_submitted(id: str | int) -> None:
    """Text and numbers, zero too, come back as the ids that they are."""
    outcome = receive(Session(), {"id": id, "body": None})
    assert isinstance(outcome, Outcome)
    assert outcome.id == id
    assert type(outcome.id) is type(id)


def test_a_null_answer_is_an_answer() -> None:
    """An outcome with the body null is an answer, not a failure."""
    outcome = receive(Session(), {"id": "a", "body": None})
    assert isinstance(outcome, Outcome)
    assert outcome.error is None
    assert decode_body(outcome.body) is None


def test_a_failure_has_all_texts_of_the_slave() -> None:
    """A failed job gives its id, reason, kind, traceback and attempts."""
    attempts = [{"slave": "host:1", "seconds": 0.5, "ended": "failed"}]
    message = {
        "id": 3,
        "error": "job_failed",
        "reason": "too hot",
        "kind": "ValueError",
        "traceback": "Traceback ...",
        "attempts": attempts,
    }
    outcome = receive(Session(), message)
    assert isinstance(outcome, Outcome)
    assert isinstance(outcome.error, JobFailed)
    error = outcome.error
    assert (error.id, error.error, error.reason) == (3, "job_failed", "too hot")
    assert (error.kind, error.traceback, error.attempts) == ("ValueError", "Traceback ...", attempts)
    assert str(error) == "ValueError: too hot"


def test_a_failure_of_the_base_level_has_fewer_fields() -> None:
    """A failure without kind, traceback and attempts reads as its reason."""
    outcome = receive(Session(), {"id": "a", "error": "job_failed", "reason": "the slave disappeared"})
    assert isinstance(outcome, Outcome)
    assert isinstance(outcome.error, JobFailed)
    assert (outcome.error.kind, outcome.error.traceback, outcome.error.attempts) == (None, None, [])
    assert str(outcome.error) == "the slave disappeared"


def test_an_outcome_with_neither_body_nor_error_is_one_that_cannot_be_read() -> None:
    """A job cannot end with nothing; the error names the job, and only that job has failed."""
    outcome = receive(Session(), {"id": "a"})
    assert isinstance(outcome, Outcome)
    assert isinstance(outcome.error, BodyError)
    assert (outcome.id, outcome.error.id) == ("a", "a")
    assert "job 'a' has neither" in str(outcome.error)


DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.mark.parametrize(
    "frame",
    [
        b'{"id":"a","body":' + DEEP + b"}",
        b'{"body":' + DEEP + b',"id":"a"}',
        b'{"id":"a","body":[1,}',
        b'{"id":"a","body":1',
        b'{"body":"{\\"id\\":2}, \\\\","id":"a","reason":5}',
        b'{"id":"a","error":"job_failed","reason":5}',
        b'{"id":"a","error":7}',
        b' { "id" : "\\u0061" , "error" : "x" , "attempts" : {} } ',
        b'{"id":"a","body":"\xff","kind":3}',
    ],
    ids=range(9),
)
def test_an_outcome_that_cannot_be_read_fails_its_job_only(frame: bytes) -> None:
    """If the id can be read, the error has it, in any surrounding message."""
    outcome = Session().receive(frame)
    assert isinstance(outcome, Outcome)
    assert isinstance(outcome.error, BodyError)
    assert (outcome.id, outcome.error.id) == ("a", "a")
    assert str(outcome.error).startswith("job 'a': ")
    assert len(str(outcome.error)) < 1000


def test_a_job_that_cannot_be_read_is_known_by_its_id() -> None:
    """So that its slave can fail it."""
    for frame in (
        b'{"action":"job","id":7,"type":"t","body":' + DEEP + b"}",
        b'{"action":"job","id":7,"type":5,"body":1}',
        b'{"action":"job","id":7}',
    ):
        job = Session().receive(frame)
        assert isinstance(job, UnreadableJob)
        assert (job.id, job.error.id) == (7, 7)


def test_progress_that_cannot_be_read_is_no_outcome() -> None:
    """The job goes on."""
    progressed = Session().receive(b'{"id":1,"progress":' + DEEP + b"}")
    assert isinstance(progressed, Progressed)
    assert progressed.id == 1


def test_other_kinds_that_cannot_be_read_are_ignored() -> None:
    """As those that can be."""
    assert Session().receive(b'{"action":"later","id":1,"reason":5}') is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"nonsense",
        b"[1]",
        b'"id"',
        b'{"id":1.5,"body":1}',
        b'{"id":"","body":1}',
        b'{"id":{"id":1},"body":1}',
        b'{"a":{"id":1},"ok":[}',
        b'{"id',
        b"{:",
        b"\xff" * 100,
    ],
    ids=range(11),
)
def test_an_unreadable_frame_without_an_id_breaks_the_protocol(frame: bytes) -> None:
    """Then the connection is of no use."""
    with pytest.raises(ProtocolError):
        Session().receive(frame)


@given(st.binary(max_size=200) | st.text('{}[]":,id\\body1 ', max_size=60).map(str.encode))
def test_any_frame_is_an_event_or_breaks_the_protocol(frame: bytes) -> None:
    """Nothing else is raised."""
    with suppress(ProtocolError):
        Session().receive(frame)


def test_a_job_is_for_the_slave() -> None:
    """A message with the action job is an assignment, even while a reply is awaited."""
    session = Session()
    session.ask(Join("sum"))
    job = receive(session, {"action": "job", "id": 1, "type": "sum", "body": [1, 2]})
    assert isinstance(job, Assignment)
    assert (job.id, job.type, decode_body(job.body)) == (1, "sum", [1, 2])
    assert len(session.unanswered) == 1


def test_an_untyped_job_has_no_type() -> None:
    """A job with the type null, or without one, is an untyped job."""
    for message in ({"type": None}, {}):
        job = receive(Session(), {"action": "job", "id": 1, "body": 0, **message})
        assert isinstance(job, Assignment)
        assert job.type is None


@pytest.mark.parametrize("message", [{"body": 1}, {}])
def test_a_job_without_id_breaks_the_protocol(message: dict[str, Any]) -> None:
    """A job that could not be answered is an error."""
    with pytest.raises(ProtocolError, match="a job must have an id and a body"):
        receive(Session(), {"action": "job", **message})


@pytest.mark.parametrize("message", [{"action": "later"}, {"action": "", "ok": True}])
def test_kinds_of_messages_that_are_not_known_are_ignored(message: Any) -> None:
    """Messages of later brokers are no events, and answer no request."""
    session = Session()
    session.ask(Ping())
    assert receive(session, message) is None
    assert len(session.unanswered) == 1


def test_messages_that_are_no_replies_answer_no_request() -> None:
    """Progress, a revocation and a word that it shuts down are events of their own."""
    session = Session()
    session.ask(Ping())
    progressed = receive(session, {"id": "a", "progress": {"done": 3}})
    assert isinstance(progressed, Progressed)
    assert (progressed.id, decode_body(progressed.body)) == ("a", {"done": 3})
    assert receive(session, {"action": "cancel", "id": "a"}) == Revocation("a")
    assert receive(session, {"action": "quiet"}) == Quiet()
    assert len(session.unanswered) == 1


def test_a_revocation_says_of_which_job() -> None:
    """Without an id it would say nothing."""
    with pytest.raises(ProtocolError, match="a cancel must have an id"):
        receive(Session(), {"action": "cancel"})


def test_an_outcome_may_have_a_receipt() -> None:
    """It is there where the broker sent one."""
    receipt = {"queued": 0.5, "ran": 1.5, "attempts": 1, "slave": "s"}
    outcomes = [receive(Session(), {"id": 1, "body": 2} | more) for more in ({}, {"receipt": receipt})]
    assert [outcome.receipt for outcome in outcomes if isinstance(outcome, Outcome)] == [None, receipt]


def test_progress_of_a_slave_has_no_reply() -> None:
    """It is sent, and the next reply is to another request."""
    session = Session()
    assert json.loads(session.ask(Progress(encode_body(5), "a"))) == {"action": "progress", "id": "a", "body": 5}
    assert not session.unanswered


def test_a_token_is_not_shown() -> None:
    """No representation of a hello has its token."""
    hello = Greeting(1, "me", token="secret")
    assert "secret" not in repr(hello) + str(hello)
    assert json.loads(Session().ask(hello))["token"] == "secret"


def test_keys_that_are_not_known_are_ignored() -> None:
    """A message may have more keys than this version reads."""
    session = Session()
    session.ask(Ping())
    assert isinstance(receive(session, {"ok": True, "later": {"deep": [1]}}), Reply)
    assert isinstance(receive(session, {"id": 1, "body": 2, "receipt": {"ran": 0.1}}), Outcome)


@pytest.mark.parametrize("frame", [b"", b"ok", b"[]", b"\xff", b'{"ok":true', b'{"id":true,"body":1}', b'{"error":1}'])
def test_a_frame_that_is_no_message_breaks_the_protocol(frame: bytes) -> None:
    """Bytes that are not an object of the protocol are an error that shows them."""
    session = Session()
    session.ask(Ping())
    with pytest.raises(ProtocolError, match="the broker sent what is not a message"):
        session.receive(frame)


def test_a_body_stays_as_it_was_sent() -> None:
    """A body keeps the sender's bytes; only its reader decodes it."""
    outcome = Session().receive(b'{"id":1,"body":  1.50e1 }')
    assert isinstance(outcome, Outcome)
    assert bytes(outcome.body) == b"1.50e1"
