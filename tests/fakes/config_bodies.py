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
    return _changed(small, changes)


BOOTSTRAP = list(range(15))
ONLINE = list(range(20, 60))


def mipro_body(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The same for MIPRO."""
    small: dict[str, Any] = {
        "prompt_learning": {
            "algorithm": "mipro",
            "task_app_url": "http://127.0.0.1:8701",
            "policy": {"provider": "groq", "model": "llama-3.1-8b-instant"},
            "mipro": {"seeds": {"bootstrap": list(BOOTSTRAP), "online": list(ONLINE)}},
        }
    }
    return _changed(small, changes)


def body_of(algorithm: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return mipro_body(changes) if algorithm == "mipro" else body(changes)


def _changed(small: dict[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
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


MIPRO_PROMPT = PROMPT | {"id": "banking77_mipro"}
MIPRO_SEEDS = {
    "bootstrap_train_seeds": list(range(15)),
    "online_pool": list(range(20, 40)),
    "test_pool": list(range(40, 90)),
    "reference_pool": list(range(90, 100)),
}
MIPRO_FILLED = {
    "num_iterations": 20,
    "num_evaluations_per_iteration": 5,
    "batch_size": 32,
    "max_concurrent": 20,
    "env_name": "banking77",
    "few_shot_score_threshold": 0.8,
    "token_counting_model": "gpt-4",
    "enforce_token_limit": True,
    "spec_max_tokens": 5000,
    "spec_include_examples": True,
}
STAGE_POLICY = {
    "provider": "groq",
    "model": "llama-3.1-8b-instant",
    "inference_mode": "synth_hosted",
    "temperature": 0.0,
    "max_completion_tokens": 512,
}


def mipro_sdk_0_4_11() -> dict[str, Any]:
    """Defaults filled in, and seeds in both places: the SDK copies those of the job into its section."""
    stages = [
        {
            "stage_id": "classify",
            "baseline_instruction": "You are a banking assistant.",
            "baseline_messages": [
                {"role": "system", "content": "You are a banking assistant."},
                {"role": "user", "content": "Query: {query}"},
            ],
            "max_instruction_slots": 2,
            "max_demo_slots": 1,
            "policy": STAGE_POLICY,
        },
        {
            "stage_id": "check",
            "baseline_instruction": "Check the intent.",
            "baseline_messages": [],
            "policy": STAGE_POLICY,
        },
    ]
    return deepcopy(
        {
            "prompt_learning": {
                "algorithm": "mipro",
                "task_app_url": "http://127.0.0.1:8102",
                "task_app_api_key": "test-task-app-key",
                "task_app_id": "banking77",
                "policy": POLICY,
                "mipro": {
                    **MIPRO_FILLED,
                    **MIPRO_SEEDS,
                    "task_app_url": "http://127.0.0.1:8102",
                    "task_app_api_key": "test-task-app-key",
                    "task_app_id": "banking77",
                    "modules": [{"module_id": "classifier", "stages": stages}],
                    "seeds": {"bootstrap": [], "online": [], "test": [], "reference": []},
                    "meta": {"model": "openai/gpt-oss-120b", "provider": "groq", "temperature": 0.3, "max_tokens": 600},
                    "proposer_effort": "LOW",
                    "proposer_output_tokens": "FAST",
                    "tpe": {"gamma": 0.25},
                    "demo": {},
                    "grounding": {},
                    "meta_update": {},
                    "verifier": VERIFIER,
                    "min_bootstrap_demos": 0,
                },
                **MIPRO_SEEDS,
                "env_config": {"split": "train"},
                "free_tier": False,
            },
            "task_app_api_key": "test-task-app-key",
        }
    )


def mipro_sdk_0_2_24() -> dict[str, Any]:
    """As the older SDK sends it: the meta-model's names are flat and have defaults of their own."""
    return deepcopy(
        {
            "prompt_learning": {
                "algorithm": "mipro",
                "task_app_url": "http://127.0.0.1:8102",
                "task_app_api_key": "test-task-app-key",
                "task_app_id": "banking77",
                "initial_prompt": MIPRO_PROMPT,
                "policy": POLICY,
                "mipro": {
                    **MIPRO_FILLED,
                    **MIPRO_SEEDS,
                    "meta_model": "gpt-4o-mini",
                    "meta_model_provider": "openai",
                    "val_seeds": list(range(100, 110)),
                },
                **MIPRO_SEEDS,
            },
            "task_app_api_key": "test-task-app-key",
        }
    )


def mipro_seed_banking77() -> dict[str, Any]:
    """The example of the API's description, its ellipses written out."""
    return deepcopy(
        {
            "prompt_learning": {
                "algorithm": "mipro",
                "task_app_url": "http://127.0.0.1:8102",
                "task_app_id": "banking77",
                "bootstrap_train_seeds": list(range(15)),
                "online_pool": list(range(20, 40)),
                "test_pool": list(range(40, 90)),
                "val_seeds": list(range(100, 110)),
                "policy": {
                    "model": "openai/gpt-oss-20b",
                    "provider": "groq",
                    "temperature": 0.0,
                    "max_completion_tokens": 512,
                },
                "mipro": {
                    "num_iterations": 2,
                    "num_evaluations_per_iteration": 3,
                    "batch_size": 5,
                    "meta_model": "openai/gpt-oss-120b",
                    "meta_model_provider": "groq",
                    "few_shot_score_threshold": 0.8,
                    "tpe": {"gamma": 0.25, "n_candidates": 32, "n_startup_trials": 10},
                },
            }
        }
    )
