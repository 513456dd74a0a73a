"""Tests of gloom.client."""
