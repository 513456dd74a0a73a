"""
``gloom token``: a new token, and its line of an access file.
"""

from __future__ import annotations

import secrets

import click

from gloom.access import hash_token
from gloom.cli.output import print_out

_TOKEN_BYTES = 32


@click.command()
def command() -> None:
    """
    Make a token for a broker's access file.

    The first line is the token, for the client: keep it in a file that only
    the client reads (--token-file), or in GLOOM_TOKEN. The second is what goes
    into the broker's access file (twistd gloom --access FILE), under
    [[identity]]: a hash, from which nobody gets the token back.
    """
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    print_out(f'{token}\ntoken_sha256 = "{hash_token(token)}"\n'.encode())
