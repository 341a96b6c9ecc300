"""Routes of experiments: estimate, create, list, read, cancel, delete."""

from fastapi import APIRouter

router = APIRouter(tags=["experiments"])
