"""Tests of the programs in verify/."""
