"""
A client's side of TLS: its authorities, its certificate, and a blocking socket.

TLS 1.3, as the broker's. Imports no Twisted: `gloom.client.deferred.openssl`
does the same for Twisted's endpoints.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from gloom.errors import SettingsError
from gloom.wire.tls import ALPN, read_pem


@dataclass(frozen=True)
class ClientTLS:
    """
    How a client speaks TLS to its broker.

    Attributes:
        ca: PEM file of the authorities that may vouch for the broker; None for the system's.
        certificate: PEM file of the certificate that this client shows, then its chain; None for none.
        key: PEM file of its private key; None where *certificate* holds it too.
        server_name: The name that the broker's certificate must have; None for the host of the address.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    server_name: str | None = None

    def ssl_context(self) -> ssl.SSLContext:
        """
        Return a context of Python's own `ssl`.

        Raises:
            SettingsError: A file cannot be read or used; the text says which.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols([ALPN])
        if self.ca is None:
            context.load_default_certs()
        else:
            read_pem("tls ca", self.ca)
            try:
                context.load_verify_locations(self.ca)
            except ssl.SSLError as error:
                raise SettingsError(f"tls ca: {self.ca} holds no PEM certificate: {error.reason}") from None
        if self.certificate is not None:
            read_pem("tls certificate", self.certificate)
            read_pem("tls key", self.key or self.certificate)
            try:
                # The empty password makes an encrypted key an error, instead of a prompt on the terminal.
                context.load_cert_chain(self.certificate, self.key, password="")
            except (ssl.SSLError, ValueError) as error:
                raise SettingsError(f"tls certificate: {self.certificate} and its key do not fit: {error}") from None
        return context


class TLSSocket:
    """
    A connected socket that speaks TLS, with those methods of a socket that `gloom.client.blocking.connection` uses.

    Args:
        sock: A connected socket. The handshake is made here, within its timeout.
        tls: The options.
        host: The name that the broker's certificate must have, unless *tls* has a ``server_name``.

    Raises:
        OSError: The handshake failed.
        SettingsError: As `ClientTLS.ssl_context`.
    """

    def __init__(self, sock: socket.socket, tls: ClientTLS, host: str) -> None:
        self._socket = tls.ssl_context().wrap_socket(sock, server_hostname=tls.server_name or host)
        # A readable socket may hold half a record, and then has no bytes to read.
        self._socket.setblocking(False)
        self.fileno = self._socket.fileno
        self.close = self._socket.close
        #: Returns the number of decrypted bytes, which poll does not see.
        self.pending = self._socket.pending

    def send(self, data: memoryview, flags: int) -> int:
        """
        Send as much of *data* as the socket takes now, and return the number of bytes.

        Raises:
            BlockingIOError: It takes nothing now.
        """
        try:
            return self._socket.send(data)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            raise BlockingIOError from None

    def recv_into(self, room: memoryview) -> int:
        """
        Read into *room*, and return the number of bytes; 0 at the end of the stream.

        Raises:
            BlockingIOError: There is nothing to read yet.
        """
        try:
            return self._socket.recv_into(room)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
