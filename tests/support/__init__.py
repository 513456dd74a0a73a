"""Helpers of the tests: recording peers, brokers in memory and as processes, certificates."""
