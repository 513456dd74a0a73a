"""Tests of gloom.broker.memory."""
