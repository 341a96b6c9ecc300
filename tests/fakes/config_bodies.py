"""Bodies of job requests: the smallest one, and what two versions of the SDK send with every default filled in."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

TRAIN = list(range(20))
VALIDATION = list(range(100, 112))


def body(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A small valid body, with values set at paths below `prompt_learning`: {"gepa.rollout.budget": 5}."""
    small: dict[str, Any] = {
        "prompt_learning": {
            "algorithm": "gepa",
            "task_app_url": "http://127.0.0.1:8701",
            "policy": {"provider": "groq", "model": "llama-3.1-8b-instant"},
            "gepa": {"evaluation": {"train_seeds": list(TRAIN), "validation_seeds": list(VALIDATION)}},
        }
    }
    for path, value in (changes or {}).items():
        *tables, last = path.split(".")
        target = small["prompt_learning"]
        for table in tables:
            target = target.setdefault(table, {})
        target[last] = value
    return small


PROMPT = {
    "id": "banking77",
    "name": "Banking77",
    "messages": [
        {"role": "system", "pattern": "You are a banking assistant.", "order": 0},
        {"role": "user", "pattern": "Query: {query}\nIntents: {intents}", "order": 1},
    ],
    "wildcards": {"query": "REQUIRED", "intents": "OPTIONAL"},
}

POPULATION = {
    "initial_size": 20,
    "num_generations": 10,
    "children_per_generation": 5,
    "crossover_rate": 0.5,
    "selection_pressure": 1.0,
    "patience_generations": 3,
}
ARCHIVE = {"size": 64, "pareto_set_size": 64, "pareto_eps": 1e-06, "feedback_fraction": 0.5}
TOKEN = {"counting_model": "gpt-4", "enforce_pattern_limit": True}
POLICY = {
    "model": "llama-3.1-8b-instant",
    "provider": "groq",
    "inference_mode": "synth_hosted",
    "temperature": 0.0,
    "max_completion_tokens": 512,
    "policy_name": "banking77-classifier",
}
VERIFIER = {
    "enabled": False,
    "reward_source": "task_app",
    "backend_base": "",
    "backend_api_key_env": "SYNTH_API_KEY",
    "backend_provider": "",
    "backend_model": "",
    "verifier_graph_id": "",
    "backend_event_enabled": True,
    "backend_outcome_enabled": True,
    "backend_options": {},
    "concurrency": 8,
    "timeout": 60.0,
    "weight_env": 1.0,
    "weight_event": 0.0,
    "weight_outcome": 0.0,
    "spec_max_tokens": 5000,
}


def sdk_0_4_11() -> dict[str, Any]:
    """Every section present, None dropped, defaults filled in; the key in three places, train seeds copied."""
    train = list(range(100))
    return deepcopy(
        {
            "prompt_learning": {
                "algorithm": "gepa",
                "task_app_url": "http://127.0.0.1:8102",
                "task_app_api_key": "test-task-app-key",
                "task_app_id": "banking77",
                "initial_prompt": PROMPT,
                "policy": POLICY,
                "gepa": {
                    "env_name": "banking77",
                    "proposer_type": "dspy",
                    "proposer_effort": "LOW",
                    "proposer_output_tokens": "FAST",
                    "proposed_prompt_max_tokens": 32000,
                    "rollout": {"budget": 300, "max_concurrent": 20, "minibatch_size": 8},
                    "evaluation": {
                        "train_seeds": train,
                        "seeds": train,
                        "validation_seeds": list(range(200, 250)),
                        "val_seeds": list(range(200, 250)),
                    },
                    "mutation": {"rate": 0.3},
                    "population": POPULATION,
                    "archive": ARCHIVE,
                    "token": TOKEN,
                    "verifier": VERIFIER,
                },
                "verifier": VERIFIER,
                "env_config": {"split": "train"},
                "free_tier": False,
                "train_seeds": train,
                "evaluation_seeds": train,
            },
            "task_app_api_key": "test-task-app-key",
        }
    )


def sdk_0_2_24() -> dict[str, Any]:
    """As the older SDK sends it: flat names beside the nested ones, and groq as the meta-model's provider."""
    train = list(range(100))
    return deepcopy(
        {
            "prompt_learning": {
                "algorithm": "gepa",
                "task_app_url": "http://127.0.0.1:8102",
                "task_app_api_key": "test-task-app-key",
                "initial_prompt": PROMPT,
                "policy": POLICY | {"provider": "openai", "model": "gpt-4o-mini"},
                "gepa": {
                    "env_name": "banking77",
                    "proposer_type": "dspy",
                    "rollout": {"budget": 300, "max_concurrent": 20, "minibatch_size": 8},
                    "evaluation": {"seeds": train, "validation_seeds": list(range(200, 250))},
                    "mutation": {"rate": 0.3, "llm_provider": "groq"},
                    "population": POPULATION,
                    "archive": ARCHIVE,
                    "token": TOKEN,
                    "rollout_budget": 300,
                    "max_concurrent_rollouts": 20,
                    "minibatch_size": 8,
                    "evaluation_seeds": train,
                    "mutation_rate": 0.3,
                    "initial_population_size": 20,
                    "num_generations": 10,
                    "children_per_generation": 5,
                    "crossover_rate": 0.5,
                    "selection_pressure": 1.0,
                    "patience_generations": 3,
                    "archive_size": 64,
                    "pareto_set_size": 64,
                    "pareto_eps": 1e-06,
                    "feedback_fraction": 0.5,
                    "token_counting_model": "gpt-4",
                    "enforce_pattern_token_limit": True,
                },
            },
            "task_app_api_key": "test-task-app-key",
        }
    )
