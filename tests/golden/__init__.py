"""Recorded journals of both searches, which every version of them has to be able to replay.

`record` writes them, tests/integration/test_golden_journals.py replays them.
"""
