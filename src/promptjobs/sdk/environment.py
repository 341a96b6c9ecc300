"""Reads the client's two environment variables: where the service is, and the API key.

It stands beside the service's settings, which only the service reads: a program that uses the client need not have any.
"""

import os

URL_VARIABLE = "PROMPTJOBS_URL"
API_KEY_VARIABLE = "PROMPTJOBS_API_KEY"


def url_of_environment() -> str | None:
    return os.environ.get(URL_VARIABLE) or None


def api_key_of_environment() -> str | None:
    return os.environ.get(API_KEY_VARIABLE) or None
