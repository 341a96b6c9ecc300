"""The service's settings, with the options of a command line in front of them."""

from typing import Any

from pydantic import ValidationError

from promptjobs.cli.logs import LEVELS
from promptjobs.errors import OptionInvalid
from promptjobs.settings import Settings

PREFIX = "PROMPTJOBS_"


def read_settings(**options: Any) -> Settings:
    """options: by the names of settings; None for one that was not given.

    Raises OptionInvalid, which names the option or the variable, but not the value: it may be a secret.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0])
        raise OptionInvalid(_shown(name, name in given), first["msg"]) from None
    if settings.log_level not in LEVELS:
        raise OptionInvalid(_shown("log_level", "log_level" in given), f"expected one of {', '.join(LEVELS)}")
    return settings


def _shown(name: str, is_option: bool) -> str:
    if is_option:
        return f"--{name.replace('_', '-')}"
    return PREFIX + name.upper() if name in Settings.model_fields else name
