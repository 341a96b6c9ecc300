"""The fields of a MIPRO search's proposals: the meta-model, what it is shown, and what becomes of what it says."""

from promptjobs.core.config_support import UPSTREAM, FieldSupport, FieldType, choice, integer, never, number, on

T = FieldType
MAX_ITERATIONS = 10_000
MAX_SLOTS = 20


def _instructions(name: str, *more: str) -> tuple[str, ...]:
    """Other names of a setting of proposals: they may stand in a table of their own."""
    return tuple(f"mipro.instructions.{other}" for other in (name, *more)) + tuple(f"mipro.{other}" for other in more)


_META = (
    on(
        "mipro.meta.model",
        T.NAME,
        None,
        "Model that proposes instructions. Default: the policy's.",
        "mipro.meta_model",
    ),
    on("mipro.meta.provider", T.NAME, None, "Its provider. Default: the policy's.", "mipro.meta_model_provider"),
    number("mipro.meta.temperature", 1.0, 0, 2, "Its sampling temperature.", "mipro.meta_model_temperature"),
    integer(
        "mipro.meta.max_tokens",
        None,
        1,
        1_000_000,
        "Most tokens of its replies. Default and most: 2048, 8192 or 32768, by `proposer_output_tokens`.",
        "mipro.meta_model_max_tokens",
    ),
    never(
        "mipro.meta.inference_url",
        "Must be absent, like `policy.inference_url`.",
        UPSTREAM,
        "mipro.meta_model_inference_url",
        harmless=("",),
    ),
)

_PROPOSALS = (
    choice(
        "mipro.proposer_mode",
        "synth",
        ("synth", "dspy", "builtin", "gepa-ai"),
        "Form of the meta-prompt: task and specification first (`synth`, and its other name `gepa-ai`), a summary of"
        " the data, the program and a tip (`dspy`), or the prompt and its failures alone (`builtin`).",
        *_instructions("proposer_mode"),
    ),
    choice(
        "mipro.proposer_effort",
        "LOW",
        ("LOW_CONTEXT", "LOW", "MEDIUM", "HIGH"),
        "How much evidence the meta-model is shown.",
        *_instructions("proposer_effort"),
    ),
    choice(
        "mipro.proposer_output_tokens",
        "FAST",
        ("RAPID", "FAST", "SLOW"),
        "How long its proposals may be.",
        *_instructions("proposer_output_tokens"),
    ),
    on("mipro.metaprompt", T.TEXT, None, "Guidance that the meta-prompt carries."),
    on("mipro.spec", T.SPEC, None, "A specification that proposals must follow, as text or as an object."),
    integer("mipro.spec_max_tokens", 5000, 1, 1_000_000, "Most tokens of it that the meta-model is shown."),
    on(
        "mipro.spec_include_examples",
        T.FLAG,
        True,
        "Of a specification that is an object: whether what it holds under `examples` is shown.",
    ),
    integer(
        "mipro.spec_priority_threshold",
        None,
        0,
        10**6,
        "Of a specification that is an object: entries of lists with a lower `priority` are left out.",
    ),
    never(
        "mipro.spec_path",
        "Must be absent: send the specification itself in `mipro.spec`.",
        "the server does not read a client's files: send the specification itself in mipro.spec",
    ),
    integer(
        "mipro.instructions_per_batch",
        10,
        1,
        1000,
        "Instructions that are asked for at a time, for each stage.",
        *_instructions("instructions_per_batch"),
    ),
    integer(
        "mipro.max_instruction_sets",
        128,
        0,
        10_000,
        "Most instructions of a stage's bank; 0: nothing is proposed.",
        *_instructions("max_instruction_sets"),
    ),
    integer(
        "mipro.max_instruction_slots",
        3,
        0,
        MAX_SLOTS,
        "Instructions that a stage's prompt may hold at a time, where the stage does not say; 0: none.",
        *_instructions("max_instruction_slots", "max_instructions"),
    ),
    integer(
        "mipro.duplicate_retry_limit",
        10,
        0,
        1000,
        "Further calls for a batch where what comes is known or cannot be used.",
        *_instructions("duplicate_retry_limit"),
    ),
    on(
        "mipro.generate_at_iterations",
        T.INTEGERS,
        None,
        "Iterations, from 0, that begin with new proposals; `[]` for none. Default: the search decides.",
        *_instructions("generate_at_iterations"),
        low=0,
        high=MAX_ITERATIONS,
    ),
    on(
        "mipro.transform_strict",
        T.FLAG,
        False,
        "Whether a proposal whose place is not in the prompt is refused; else what else it changes is tried.",
        *_instructions("transform_strict"),
    ),
    on(
        "mipro.transform_case_sensitive",
        T.FLAG,
        True,
        "Whether the text that a proposal names must be found in the same case.",
        *_instructions("transform_case_sensitive"),
    ),
    choice(
        "mipro.transform_match_mode",
        "substring",
        ("exact", "substring"),
        "Whether the text that a proposal names is a whole message, or a part of one.",
        *_instructions("transform_match_mode"),
    ),
    on(
        "mipro.allow_python",
        T.FLAG,
        False,
        "Whether proposals may be Python functions of a message's text; they run in an interpreter without any access,"
        " with limits on time and memory. Not in the SDK.",
        *_instructions("allow_python"),
    ),
    integer("mipro.max_meta_calls", None, 1, 10**9, "Propose nothing after so many calls. Not in the SDK."),
)

PROPOSALS: tuple[FieldSupport, ...] = (*_META, *_PROPOSALS)
