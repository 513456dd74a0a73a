"""Jobs and their transitions: told the time and the verbs of peers, a broker calls peers; no transport, JSON or clock."""
