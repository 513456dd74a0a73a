"""The vocabulary and the bytes of both ends of a connection (docs/protocol.md); no input or output, no Twisted."""
