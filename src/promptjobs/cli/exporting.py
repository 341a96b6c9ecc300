"""Turns a job's prompt into what a snippet needs: its calls, their models, and the placeholders that are filled in."""

import re
from collections.abc import Mapping
from typing import Any

from promptjobs.cli.selecting import Selected
from promptjobs.cli.snippets import Call, Exported, Model
from promptjobs.clients.providers import KNOWN, Quirks
from promptjobs.sdk.client import Client
from promptjobs.settings import PROVIDERS


def exported(client: Client, selected: Selected) -> Exported:
    """With the models that the job's config names, overrides included."""
    resolved = client.config(selected.job["job_id"])["resolved"]
    modules = {each["module_id"]: each for each in resolved[resolved["algorithm"]].get("modules") or ()}
    by_module = selected.modules or {"": selected.messages}
    calls = [
        Call(name, messages, _model(modules.get(name, {}).get("policy") or resolved["policy"]))
        for name, messages in by_module.items()
    ]
    return Exported(selected.label, calls, tuple(_wildcards(selected, resolved, modules.values())))


def _wildcards(selected: Selected, resolved: Mapping[str, Any], modules: Any) -> Mapping[str, str]:
    """Those of the published prompt, which all candidates share; until there is one those of the config."""
    published = (selected.job["best_snapshot"] or {}).get("best_prompt")
    if published is not None:
        found: Mapping[str, str] = published["wildcards"]
        return found
    initial = resolved.get("initial_prompt") or {"wildcards": {}}
    return {**initial["wildcards"], **{name: kind for each in modules for name, kind in each["wildcards"].items()}}


def _model(policy: Mapping[str, Any]) -> Model:
    provider = policy["provider"]
    quirks = KNOWN.get(provider, Quirks())
    name = re.sub(r"\W", "_", provider, flags=re.ASCII).upper()
    name = f"PROVIDER_{name}" if name[:1].isdigit() else name
    return Model(
        name=policy["model"],
        base_url=PROVIDERS.get(provider),
        key_variable=quirks.key_variable or f"{name}_API_KEY",
        url_variable=f"{name}_BASE_URL",
        limit_field=quirks.limit_field,
        temperature=policy["temperature"],
        max_completion_tokens=policy["max_completion_tokens"],
    )
