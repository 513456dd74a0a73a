"""
``gloom token``: a new token, and its line for the access file.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys

import click

from gloom.cli.output import on_terminal, print_out, say, tell
from gloom.server.access import hash_token

_TOKEN_BYTES = 32


@click.command()
def command() -> None:
    """
    Make a token for a broker's access file.

    The token is printed on standard output. The client reads it from a file
    (--token-file) or from GLOOM_TOKEN. Standard error has the line for the
    broker's access file (gloom broker --access FILE), under [[identity]]: a
    hash, from which the token cannot be computed.

    \b
    Examples:
        gloom token
        (umask 077; gloom token > shop.token)
    """
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    print_out(f"{token}\n".encode())
    if not on_terminal(sys.stdout):
        say("the token is on standard output; this is for the broker's access file:")
    tell(f'token_sha256 = "{hash_token(token)}"')
    if _others_may_read():
        say("other users of this host can read the token's file: chmod 600")


def _others_may_read() -> bool:
    """Return whether standard output is a file that others than its owner may read."""
    mode = os.fstat(sys.stdout.fileno()).st_mode
    return stat.S_ISREG(mode) and bool(mode & (stat.S_IRGRP | stat.S_IROTH))
