"""Tests of gloom.wire."""
