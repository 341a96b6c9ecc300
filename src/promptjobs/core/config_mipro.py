"""The resolved config of a MIPRO search."""

from typing import Literal

from promptjobs.core.config_search import SearchConfig
from promptjobs.core.config_sections import Resolved

DEFAULT_STAGE = "stage_default"
DEFAULT_MODULE = "module_default"


class TpeConfig(Resolved):
    """The sampler. gamma: share of the trials that count as good. n_startup_trials: drawn at random; None: the sampler
    decides. epsilon: share of the later trials drawn at random. alpha: weight of the prior."""

    gamma: float = 0.25
    n_candidates: int = 24
    n_startup_trials: int | None = None
    epsilon: float = 0.0
    alpha: float = 1.0


class StageConfig(Resolved):
    """One kind of LLM call of the program, a module of its prompt. module_id: what the client groups stages by.

    baseline_instruction: the text that stands for the stage in what proposers read; None: its first system message.
    """

    stage_id: str
    module_id: str
    baseline_instruction: str | None = None
    max_instruction_slots: int = 3
    max_demo_slots: int = 1


class MiproConfig(SearchConfig):
    """The search. Seeds are disjoint, but for bootstrap and online, and reference, which may share with all but test.

    validation_seeds: for full evaluations; where there are none, they use online_seeds. batch_size: of a minibatch, at
    most the online seeds. early_stopping: a trial that is clearly behind on a part of its minibatch ends there.
    full_eval_every: trials from one full evaluation to the next. max_parallel_trials: None where
    parallel_risk alone decides. min_bootstrap_demos: examples without which the job fails. max_demo_sets,
    max_instruction_sets: most options of a stage's bank. generate_at_iterations: from 0; None where the search decides.
    spec_max_tokens: longest part of spec that the meta-model is shown.
    max_token_limit: tokens of the whole job; with enforce_token_limit looked at before a trial is paid, else only
    reported. max_prompt_tokens: of one compiled prompt. stages: at least one; the stage of a prompt that is not divided
    is called stage_default. edges: pairs of stage ids, without a cycle. is_budget_given: whether rollout_budget was in
    the request; else it was derived from the plan.
    """

    bootstrap_seeds: tuple[int, ...]
    online_seeds: tuple[int, ...]
    validation_seeds: tuple[int, ...] = ()
    reference_seeds: tuple[int, ...] = ()

    num_iterations: int = 20
    num_evaluations_per_iteration: int = 5
    batch_size: int = 32
    early_stopping: bool = True
    full_eval_every: int = 5
    validation_top_k: int = 3
    max_parallel_trials: int | None = None
    parallel_risk: Literal["LOW", "MEDIUM", "HIGH"] = "LOW"

    few_shot_score_threshold: float = 0.8
    max_demo_set_size: int = 16
    max_demo_sets: int = 128
    min_bootstrap_demos: int = 0
    demo_format: Literal["messages", "text"] = "messages"

    spec_max_tokens: int = 5000
    instructions_per_batch: int = 10
    max_instruction_sets: int = 128
    duplicate_retry_limit: int = 10
    generate_at_iterations: tuple[int, ...] | None = None
    proposer_mode: Literal["builtin", "dspy", "synth"] = "synth"
    transform_strict: bool = False
    transform_case_sensitive: bool = True
    transform_match_mode: Literal["exact", "substring"] = "substring"
    allow_python: bool = False

    tpe: TpeConfig = TpeConfig()

    max_token_limit: int | None = None
    enforce_token_limit: bool = True
    max_prompt_tokens: int | None = None

    stages: tuple[StageConfig, ...] = (StageConfig(stage_id=DEFAULT_STAGE, module_id=DEFAULT_MODULE),)
    edges: tuple[tuple[str, str], ...] = ()
    is_budget_given: bool = False

    @property
    def token_cap(self) -> int | None:
        enforced = self.max_token_limit if self.enforce_token_limit else None
        return min((limit for limit in (self.max_total_tokens, enforced) if limit is not None), default=None)
