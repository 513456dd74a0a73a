"""Tests of gloom.worker."""
