"""Programs that prove docs/reliability.md: the simulation, fuzzing, chaos, hostile peers, the soak."""
