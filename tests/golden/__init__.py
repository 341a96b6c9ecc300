"""Recorded journals of GEPA, which every version of the search has to be able to replay.

`record` writes them, tests/integration/test_golden_journals.py replays them.
"""
