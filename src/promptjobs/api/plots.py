"""Routes of the plots of jobs and experiments."""

from fastapi import APIRouter

jobs_router = APIRouter(tags=["results"])
experiments_router = APIRouter(tags=["experiments"])
