"""Connections in front of a broker: admission, access, the verbs of both ports, the daemon's service."""
