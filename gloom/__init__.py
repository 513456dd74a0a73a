"""
gloom distributes jobs: masters submit them, slaves take them one at a time.

The rooms, in the order in which imports may go down (docs/architecture.md):

    errors, settings    exceptions; limits and times
    messages            the wire's vocabulary: bytes <-> values
    interfaces          what a broker and its peers promise each other
    ordered             entries in order, with removal
    jobqueue, deadlines strict priority order; what is due next
    jobs                the broker's records
    pairing             who takes which job
    broker              every state and every transition
    access              who may do what: tokens, certificate names, roles
    polling             reading all sockets in one event
    sending, framing    bytes <-> frames, for both ends
    peers, protocols    a frame -> a verb of the broker
    service, tap        listening, draining, stopping; twistd's door

and the other wing, which talks to a broker over the wire:

    client              Deferred-based (`gloom.client.deferred`) and blocking
                        (`gloom.client.blocking`) clients over one sans-IO session
    worker              what `gloom work` runs
    cli                 the command `gloom`, one file a verb
"""

__version__ = "0.1.0"
