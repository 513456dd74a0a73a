"""The broker: facts and the time go in, calls on peers come out; no transport, no JSON, no clock."""
