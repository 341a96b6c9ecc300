"""Routes of an experiment's events, those of all its jobs on one connection."""

from fastapi import APIRouter

router = APIRouter(tags=["experiments"])
