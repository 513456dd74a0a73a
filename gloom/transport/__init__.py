"""One connection's bytes on Twisted, for both ends: reading, sending, fair turns, timers of a connection."""
