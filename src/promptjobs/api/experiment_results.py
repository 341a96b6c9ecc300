"""Routes of what an experiment has found: its results, and the comparison of two of its jobs."""

from fastapi import APIRouter

router = APIRouter(tags=["experiments"])
