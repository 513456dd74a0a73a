"""How the broker's cost grows: ``python -m bench.growth``."""
