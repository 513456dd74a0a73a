"""Test doubles and fixtures: recording peers, brokers in memory and as processes, certificates."""
