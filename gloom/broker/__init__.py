"""Jobs and all their transitions: facts and the time come in, calls on peers go out; no transport, JSON or clock."""
