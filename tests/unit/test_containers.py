"""The image and the compose file say what we mean, as far as that can be told without a container engine."""

import base64
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from pydantic import SecretStr

from promptjobs.db.api_keys import SENT_KEY
from promptjobs.db.vault import Vault
from promptjobs.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PORT = 8700


@dataclass(frozen=True, slots=True)
class Instruction:
    """One Dockerfile instruction: its keyword in capitals, and the rest with continued lines joined."""

    keyword: str
    value: str

    @property
    def words(self) -> list[str]:
        """The words of the value that are not flags such as --from=build."""
        return [word for word in self.value.split() if not word.startswith("--")]

    @property
    def exec_form(self) -> list[str] | None:
        """The argument list of `CMD ["a", "b"]`, or None for the shell form."""
        try:
            listed = json.loads(self.value)
        except ValueError:
            return None
        return listed if isinstance(listed, list) and all(isinstance(word, str) for word in listed) else None


def parse_dockerfile(text: str) -> list[Instruction]:
    """Split a Dockerfile into its instructions; comment lines may stand between continued lines."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        Instruction(keyword.upper(), value.strip())
        for keyword, _, value in (x.partition(" ") for x in joined.split("\n"))
    ]


def stages(instructions: list[Instruction]) -> list[list[Instruction]]:
    """The instructions of each stage, its FROM first; what comes before the first FROM is left out."""
    split: list[list[Instruction]] = []
    for instruction in instructions:
        if instruction.keyword == "FROM":
            split.append([])
        if split:
            split[-1].append(instruction)
    return split


def last(stage: list[Instruction], keyword: str) -> Instruction | None:
    return next((each for each in reversed(stage) if each.keyword == keyword), None)


def build_problems(instructions: list[Instruction]) -> Iterator[str]:
    """What is wrong with how the image is built: unpinned bases, fetched files, packages without hashes."""
    names: set[str] = set()
    for each in instructions:
        if each.keyword == "FROM":
            image, *alias = each.words
            if image not in names and not re.search(r":\d[\w.-]*$|@sha256:[0-9a-f]{64}$", image):
                yield f"the base is not pinned: {image}"
            names.update(alias[1:])
        if each.keyword == "ADD":
            yield f"COPY says what it does, ADD may fetch or unpack: {each.value}"
        if each.keyword == "COPY" and (stage := re.search(r"--from=(\S+)", each.value)) and stage[1] not in names:
            yield f"there is no stage {stage[1]}"
        if each.keyword == "RUN":
            for install in re.findall(r"pip install[^&;|]*", each.value):
                locked = "--require-hashes" in install and "-r constraints.txt" in install
                if not locked and "--no-deps --no-build-isolation" not in install:
                    yield f"packages are installed without the lock: {install.strip()}"


def image_problems(stage: list[Instruction]) -> Iterator[str]:
    """What is wrong with the last stage, which becomes the image."""
    user = last(stage, "USER")
    if user is None or user.value.split(":")[0] in {"root", "0"}:
        yield "the image runs as root"
    health = last(stage, "HEALTHCHECK")
    command = health and Instruction("CMD", re.sub(r"^.*?\bCMD\s+", "", health.value)).exec_form
    if not command or "/healthz" not in command[-1]:
        yield "there is no HEALTHCHECK of /healthz"
    elif command[:2] == ["python", "-c"]:
        compile(command[2], "HEALTHCHECK", "exec")
    for keyword in ("ENTRYPOINT", "CMD"):
        written = last(stage, keyword)
        if written is None or written.exec_form is None:
            yield f"{keyword} is not in exec form, so a shell would stand between it and signals"
    if (stop := last(stage, "STOPSIGNAL")) is None or stop.value != "SIGTERM":
        yield "STOPSIGNAL is not SIGTERM"
    if (port := last(stage, "EXPOSE")) is None or port.value != str(PORT):
        yield f"EXPOSE is not {PORT}"


def problems(text: str) -> list[str]:
    instructions = parse_dockerfile(text)
    return [*build_problems(instructions), *image_problems(stages(instructions)[-1])]


DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_dockerfile_has_no_problem():
    assert problems(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("written", "instead", "told"),
    [
        ("FROM python:3.12-slim-bookworm AS build", "FROM python:latest AS build", "the base is not pinned"),
        ("FROM python:3.12-slim-bookworm AS build", "FROM python AS build", "the base is not pinned"),
        ("AS build", "AS other", "there is no stage build"),
        ("COPY constraints.txt ./", "ADD https://example.com/constraints.txt ./", "ADD may fetch"),
        ("--require-hashes ", "", "without the lock"),
        ("--no-deps ", "", "without the lock"),
        ("USER 10001", "USER root", "runs as root"),
        ("USER 10001", "USER 0:0", "runs as root"),
        ("/healthz", "/", "HEALTHCHECK"),
        ("HEALTHCHECK --interval", "LABEL --interval", "HEALTHCHECK"),
        ('ENTRYPOINT ["promptjobs"]', "ENTRYPOINT promptjobs", "ENTRYPOINT is not in exec form"),
        ('CMD ["serve", "--host", "0.0.0.0"]', "CMD serve --host 0.0.0.0", "CMD is not in exec form"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "STOPSIGNAL"),
        ("EXPOSE 8700", "EXPOSE 80", "EXPOSE"),
    ],
)
def test_each_defect_of_a_dockerfile_is_told(written: str, instead: str, told: str):
    assert written in DOCKERFILE
    found = problems(DOCKERFILE.replace(written, instead))
    assert found
    assert any(told in problem for problem in found), found


def copied_sources() -> list[str]:
    copies = [each for each in parse_dockerfile(DOCKERFILE) if each.keyword == "COPY" and "--from" not in each.value]
    return sorted({source for each in copies for source in each.words[:-1]})


def test_exactly_what_the_image_copies_is_sent_to_the_builder():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert sorted(line.removeprefix("!") for line in lines if line.startswith("!")) == copied_sources()


@pytest.mark.parametrize("source", copied_sources())
def test_copied_source_exists(source: str):
    assert (ROOT / source).exists()


def test_image_is_built_from_all_that_the_wheel_contains():
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", PROJECT["project"]["readme"], *wheel["packages"], *wheel["force-include"]}
    missing = [path for path in needed if not any(Path(path).is_relative_to(source) for source in copied_sources())]
    assert missing == []


def schema_of(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


WORD: dict[str, Any] = {"type": "string", "minLength": 1}
WORDS: dict[str, Any] = {"type": "array", "items": WORD, "minItems": 1}
DURATION: dict[str, Any] = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}
HEALTHCHECK: dict[str, Any] = {
    "oneOf": [
        schema_of({"disable": {"const": True}}, "disable"),
        schema_of(
            {
                "test": {"type": "array", "prefixItems": [{"const": "CMD"}], "items": WORD, "minItems": 2},
                "interval": DURATION,
                "timeout": DURATION,
                "start_period": DURATION,
                "retries": {"type": "integer", "minimum": 1},
            },
            "test",
        ),
    ]
}
CONDITIONS = ["service_started", "service_healthy", "service_completed_successfully"]
DEPENDENCY = schema_of({"condition": {"enum": CONDITIONS}}, "condition")
SERVICE = schema_of(
    {
        "image": {"type": "string", "pattern": r"^[a-z0-9./-]+:[\w.-]+$"},
        "build": {"const": "."},
        "command": WORDS,
        "environment": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
        "depends_on": {"type": "object", "additionalProperties": DEPENDENCY},
        "healthcheck": HEALTHCHECK,
        "restart": {"enum": ["no", "unless-stopped"]},
        "ports": {"type": "array", "items": {"type": "string", "pattern": r"^127\.0\.0\.1:\d+(-\d+)?:\d+$"}},
        "volumes": {"type": "array", "items": {"type": "string", "pattern": r"^[a-z-]+:/[\w/]+$"}},
        "deploy": schema_of({"replicas": {"type": "integer", "minimum": 1}}),
        "shm_size": {"type": "string", "pattern": r"^\d+(mb|gb)$"},
        "stop_grace_period": DURATION,
        "cap_drop": {"const": ["ALL"]},
        "security_opt": {"const": ["no-new-privileges:true"]},
        "extra_hosts": {"const": ["host.docker.internal:host-gateway"]},
    },
    "image",
    "command",
    "restart",
)
COMPOSE_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **schema_of(
        {
            "name": WORD,
            "services": {"type": "object", "additionalProperties": SERVICE},
            "volumes": {"type": "object", "additionalProperties": {"type": "null"}},
        },
        "name",
        "services",
        "volumes",
    ),
    "patternProperties": {"^x-": {}},
}
"""The part of the compose format that our file uses: a misspelt or misplaced key is an error."""


def interpolate(value: Any, environment: dict[str, str]) -> Any:
    """Replace ${NAME}, ${NAME:-default} and ${NAME:?message} in every string, the way compose does.

    Raises LookupError for a required variable without a value.
    """

    def replace(found: re.Match[str]) -> str:
        name, operator, rest = found.groups()
        if given := environment.get(name):
            return given
        if operator == ":?":
            raise LookupError(name)
        return rest or ""

    match value:
        case str():
            return re.sub(r"\$\{(\w+)(:[-?])?([^}]*)\}", replace, value)
        case dict():
            return {key: interpolate(each, environment) for key, each in value.items()}
        case list():
            return [interpolate(each, environment) for each in value]
    return value


WRITTEN: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
REQUIRED = {
    "POSTGRES_PASSWORD": "s3cret",
    "PROMPTJOBS_SECRET_KEY": base64.b64encode(bytes(32)).decode(),
    "PROMPTJOBS_INITIAL_API_KEY": "pj_" + "k" * 40,
}
SERVICES: dict[str, dict[str, Any]] = interpolate(WRITTEN, REQUIRED)["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("promptjobs")}


def test_compose_file_follows_its_schema():
    jsonschema.Draft202012Validator.check_schema(COMPOSE_SCHEMA)
    jsonschema.validate(WRITTEN, COMPOSE_SCHEMA)


def test_compose_has_a_database_its_migration_two_api_replicas_and_two_workers():
    commands = {name: service["command"][0] for name, service in OURS.items()}
    assert commands == {"migrate": "migrate", "api": "serve", "worker": "worker"}
    assert SERVICES.keys() - OURS.keys() == {"postgres"}
    assert {name: SERVICES[name]["deploy"]["replicas"] for name in ("api", "worker")} == {"api": 2, "worker": 2}
    assert "--no-worker" in SERVICES["api"]["command"]


@pytest.mark.parametrize("name", REQUIRED)
def test_compose_refuses_to_start_without_its_secrets(name: str):
    with pytest.raises(LookupError, match=name):
        interpolate(WRITTEN["services"], {other: value for other, value in REQUIRED.items() if other != name})


def test_the_secrets_that_compose_asks_for_are_such_as_the_service_takes():
    environment = OURS["api"]["environment"]
    Vault.open(SecretStr(environment["PROMPTJOBS_SECRET_KEY"]), Path("/nowhere"))
    assert SENT_KEY.fullmatch(environment["PROMPTJOBS_INITIAL_API_KEY"])


@pytest.mark.parametrize("name", OURS)
def test_service_reaches_the_database_that_compose_starts(name: str):
    url = urlsplit(SERVICES[name]["environment"]["PROMPTJOBS_DATABASE_URL"])
    postgres = SERVICES["postgres"]["environment"]
    assert url.scheme == "postgresql+asyncpg"
    assert (url.hostname, url.port) == ("postgres", 5432)
    assert (url.username, url.password) == (postgres["POSTGRES_USER"], postgres["POSTGRES_PASSWORD"])
    assert url.path == "/" + postgres["POSTGRES_DB"]


def test_services_start_after_what_they_need():
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            match how["condition"]:
                case "service_healthy":
                    assert "test" in SERVICES[needed]["healthcheck"], f"{name} waits for a health that nobody checks"
                case "service_completed_successfully":
                    assert SERVICES[needed]["restart"] == "no", f"{name} waits for the end of a service that restarts"
    for name in ("api", "worker"):
        assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_only_the_service_that_serves_is_asked_for_its_health():
    checked = {name for name, service in OURS.items() if not service.get("healthcheck", {}).get("disable")}
    assert checked == {"api"}


def test_api_publishes_one_host_port_per_replica_of_the_port_that_the_image_exposes():
    (mapping,) = SERVICES["api"]["ports"]
    _, published, exposed = mapping.rsplit(":", 2)
    first, final = map(int, published.split("-"))
    assert final - first + 1 == SERVICES["api"]["deploy"]["replicas"]
    assert int(exposed) == PORT == Settings.model_fields["port"].default
    assert urlsplit(SERVICES["api"]["environment"]["PROMPTJOBS_PUBLIC_URL"]).netloc == f"api:{PORT}"


def test_database_outlives_its_container():
    (volume,) = SERVICES["postgres"]["volumes"]
    name, _, path = volume.partition(":")
    assert name in WRITTEN["volumes"]
    # From version 18 on, a volume at the older /var/lib/postgresql/data would stay empty.
    assert int(SERVICES["postgres"]["image"].partition(":")[2]) >= 18
    assert path == "/var/lib/postgresql"


def test_every_promptjobs_variable_is_a_setting():
    image = {
        word.partition("=")[0] for each in parse_dockerfile(DOCKERFILE) if each.keyword == "ENV" for word in each.words
    }
    named = image.union(*(service["environment"] for service in OURS.values()))
    settings = {f"PROMPTJOBS_{field.upper()}" for field in Settings.model_fields}
    assert {name for name in named if fnmatch(name, "PROMPTJOBS_*")} <= settings
