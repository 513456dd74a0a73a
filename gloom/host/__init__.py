"""The operating system's side of the daemon: signals, systemd, descriptors, memory."""
