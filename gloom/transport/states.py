"""
The states of a connection, and the one table of their transitions.

A connection has two states, which are independent: of its input, and of its
output. docs/architecture.md, "A connection", has the table with the actions.
"""

from __future__ import annotations

from enum import Enum, auto


class Input(Enum):
    """The state of the bytes that arrive."""

    __hash__ = object.__hash__  # Enum's own is written in Python

    NEW = auto()
    """No whole frame has come yet."""
    READY = auto()
    """Between two frames: the next one is delivered at once."""
    MIDWAY = auto()
    """A part of a frame has come."""
    DELIVERING = auto()
    """Frames are being delivered, one after the other; bytes that arrive meanwhile are kept."""
    HELD = auto()
    """As DELIVERING, but paused by a frame's receiver: no more after this one."""
    PAUSED = auto()
    """Too many bytes wait for the peer: nothing is read from it."""
    WAITING = auto()
    """This connection has used its slice of time: its frames wait for the next one."""
    ANSWERING = auto()
    """As WAITING, within a request that takes several slices: no frame is delivered before its reply."""
    CLOSED = auto()
    """This end has closed: whatever arrives is thrown away."""
    LOST = auto()
    """The connection has ended."""


#: No frame is delivered any more.
OVER = (Input.CLOSED, Input.LOST)
WAITING = (Input.WAITING, Input.ANSWERING)
PAUSED = (Input.PAUSED, Input.HELD)
#: The peer owes the rest of the frame; this end is not too busy to read it.
HALF_WAY = (Input.NEW, Input.MIDWAY)


class Output(Enum):
    """The state of the frames that are sent."""

    __hash__ = object.__hash__

    FREE = auto()
    """Whatever was said before this turn of the reactor has been sent."""
    LARGE = auto()
    """As FREE, but a large frame is said: it is sent without being joined to others."""
    BLOCKED = auto()
    """The socket took no more: bytes wait for the peer, and further frames behind them."""
    FINISHING = auto()
    """This end has closed: the bytes that wait are sent, and further frames are dropped."""
    ENDED = auto()
    """Nothing is sent any more."""


class Event(Enum):
    """An event in the life of a connection."""

    __hash__ = object.__hash__

    PART = auto()
    """A frame has begun to arrive, and is not whole."""
    FRAMES = auto()
    """Whole frames are there."""
    DELIVERED = auto()
    """The frames that are whole were delivered."""
    PAUSE = auto()
    """Nothing is to be read for now."""
    RESUME = auto()
    """The peer is to be read again."""
    SLICE_OVER = auto()
    """Frames are left when the slice of time is over."""
    STEPS_LEFT = auto()
    """Steps of a request are left when the slice of time is over."""
    TURN = auto()
    """The next slice of time has come."""
    ANSWERED = auto()
    """The last step of a request is done, and its reply is said."""
    LARGE_FRAME = auto()
    """A large frame is said."""
    BLOCK = auto()
    """The socket does not take the next bytes."""
    SENT = auto()
    """Every byte has been sent."""
    FINISH = auto()
    """This end closes, once the bytes that wait are sent."""
    CLOSE = auto()
    """This end reads no more; of the output: it drops the bytes that wait."""
    LOSE = auto()
    """The connection has ended."""


#: The transitions of the input; an event without an entry changes nothing.
INPUTS: dict[Input, dict[Event, Input]] = {
    Input.NEW: {
        Event.FRAMES: Input.DELIVERING,
        Event.PAUSE: Input.PAUSED,
    },
    Input.READY: {
        Event.PART: Input.MIDWAY,
        Event.FRAMES: Input.DELIVERING,
        Event.PAUSE: Input.PAUSED,
    },
    Input.MIDWAY: {
        Event.FRAMES: Input.DELIVERING,
        Event.PAUSE: Input.PAUSED,
    },
    Input.DELIVERING: {
        Event.DELIVERED: Input.READY,
        Event.PAUSE: Input.HELD,
        Event.SLICE_OVER: Input.WAITING,
        Event.STEPS_LEFT: Input.ANSWERING,
    },
    Input.HELD: {
        Event.RESUME: Input.DELIVERING,
        Event.DELIVERED: Input.PAUSED,
    },
    Input.PAUSED: {
        Event.RESUME: Input.READY,
    },
    # While they wait for their turn nothing is read: a pause shows when the turn has come.
    Input.WAITING: {
        Event.TURN: Input.READY,
    },
    Input.ANSWERING: {
        Event.ANSWERED: Input.READY,
    },
    Input.CLOSED: {},
    Input.LOST: {},
}

#: The transitions of the output, likewise.
OUTPUTS: dict[Output, dict[Event, Output]] = {
    Output.FREE: {
        Event.LARGE_FRAME: Output.LARGE,
        Event.BLOCK: Output.BLOCKED,
        Event.FINISH: Output.ENDED,
    },
    Output.LARGE: {
        Event.BLOCK: Output.BLOCKED,
        Event.SENT: Output.FREE,
        Event.FINISH: Output.ENDED,
    },
    Output.BLOCKED: {
        Event.SENT: Output.FREE,
        Event.FINISH: Output.FINISHING,
    },
    Output.FINISHING: {
        Event.SENT: Output.ENDED,
    },
    Output.ENDED: {},
}

for _state, _row in INPUTS.items():
    _row[Event.LOSE] = Input.LOST
    if _state is not Input.LOST:
        _row[Event.CLOSE] = Input.CLOSED
for _out in OUTPUTS.values():
    _out[Event.CLOSE] = _out[Event.LOSE] = Output.ENDED


def input_after(state: Input, event: Event) -> Input:
    """Return the state that follows *state*."""
    return INPUTS[state].get(event, state)


def output_after(state: Output, event: Event) -> Output:
    """Return the state that follows *state*."""
    return OUTPUTS[state].get(event, state)
