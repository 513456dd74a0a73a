"""The comparison of job servers over their wires: load generators in C, the plan, the tables."""
