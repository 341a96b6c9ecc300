"""MIPRO's meta-prompts: what a model is shown of a stage and its program, and what it is asked to write."""

from collections.abc import Sequence

from promptjobs.core.demonstrations import Example
from promptjobs.core.prompt import Message
from promptjobs.core.proposers.additions import additions_of
from promptjobs.core.proposers.program_context import (
    EFFORTS,
    OUTPUTS,
    TOKEN,
    Effort,
    ProgramContext,
    ProposalBrief,
    StageContext,
    Tried,
)
from promptjobs.core.proposers.reflection import (
    DEFAULT_GUIDE,
    Record,
    closing_lines,
    cut,
    fence_for,
    shown_record,
)

TIPS = (
    None,
    "Take another way than the current text does: another order, other criteria, other words.",
    "Keep it clear and short: one rule in a sentence, and the rules that matter most first.",
    "Describe the task, the input and the form of the answer completely before you give rules.",
    "Prefer precise rules that tell apart what was confused over general advice.",
    "Look for a rule in the current text that the feedback contradicts, and correct it.",
    "Say which rule wins where two of them fit, and what to do where none of them does.",
)
"""Hints for several proposals from the same evidence to differ by. Personas and high stakes are not among them: what
they add says nothing about the task."""

CHANGES_GUIDE = """\
Propose changes of the current text, each about one thing. Each is tried by itself and together with others, so each \
must make sense alone.
The model that receives the text knows nothing but its messages. Keep what already works. Turn each piece of feedback \
into a rule that also holds for inputs that are not shown: name the facts, definitions and conventions that the \
feedback reveals, and how to tell apart what was confused.
Do not copy the examples into a text."""

ALL_SOLVED = """\
Nothing went wrong in these examples. Make explicit what their right answers have in common: the form of the answer, \
and the conventions that it follows."""

LEARN_FROM_HISTORY = "Build on the earlier versions that scored well, and do not repeat those that scored badly."

ONE_STEP = "The text is for one step of the program: its reply must stay fit for the step that reads it."

OPENING = "You improve the instructions of a language model."


def tip_for(number: int) -> str | None:
    """The hint of the proposal with this number; hints take turns, and the first of a round is none."""
    return TIPS[number % len(TIPS)]


def proposal_messages(program: ProgramContext, stage: StageContext, brief: ProposalBrief) -> tuple[Message, ...]:
    """The meta-prompt of a proposal, in the form of the brief's mode.

    Nothing is in it but what these three hold. What is shown cannot close the fence around the current text.
    """
    effort = EFFORTS[brief.effort]
    records, demos = brief.records[: effort.records], _solved(brief.demos[: effort.demos])
    history = _history(stage, brief.history[: effort.history], effort)
    match brief.mode:
        case "synth":
            before = [_spec(program), _program(program, stage, effort), _reference(program, effort)]
            after = [_wrong(records, 1, effort), _right(demos, 1 + len(records), effort), history]
        case "dspy":
            summary = f"# The data\n\n{cut(brief.summary, effort.characters)}" if brief.summary else ""
            before = [summary, _program(program, stage, effort), _reference(program, effort)]
            before += [_right(demos, 1, effort), history]
            after = [_wrong(records, 1 + len(demos), effort), _spec(program)]
        case "builtin":
            before = [_task(program, stage, effort)]
            after = [_right(demos, 1, effort), _wrong(records, 1 + len(demos), effort), _spec(program), history]
    before.append(_messages(stage, effort))
    task = _task_lines(program, brief, has_history=bool(history))
    ticks = fence_for(stage.text, *before, *after, *task)
    closing = _changes_asked(stage, brief, ticks) if brief.mode == "builtin" else _text_asked(stage, brief, ticks)
    current = f"# Current text of the instructions\n\n{ticks}\n{stage.text}\n{ticks}"
    parts = [OPENING, *before, current, *after, *task, *closing]
    return (Message("user", "\n\n".join(part for part in parts if part)),)


# --- what is shown ---------------------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    """Foreign text that must not be taken for a heading, a fence or an example of the meta-prompt."""
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _spec(program: ProgramContext) -> str:
    if not program.spec:
        return ""
    return f"# Specification\n\nThe new text must follow this.\n\n{cut(program.spec, TOKEN * program.spec_max_tokens)}"


def _task(program: ProgramContext, stage: StageContext, effort: Effort) -> str:
    parts = [cut(text, effort.characters) for text in (program.task, stage.description) if text]
    return "\n\n".join(["# The task", *parts]) if parts else ""


def _program(program: ProgramContext, stage: StageContext, effort: Effort) -> str:
    """The task; of a program of several stages also what each of them does, and which one is to be improved."""
    if len(program.stages) < 2:
        return _task(program, stage, effort)
    steps = []
    for stage_id, module_id, description in program.stages:
        of_module = f" (module `{module_id}`)" if module_id not in ("", stage_id) else ""
        said = f": {_in_one_line(description, effort.remembered)}" if description else ""
        steps.append(f"* `{stage_id}`{of_module}{said}")
    own = f"The text is for the step `{stage.stage_id}`."
    parts = [
        "# The program",
        cut(program.task, effort.characters),
        "Its steps, each a call of a language model:\n\n" + "\n".join(steps),
        "What goes on from where: " + ", ".join(f"{a} → {b}" for a, b in program.edges) if program.edges else "",
        f"{own} {cut(stage.description, effort.characters)}".rstrip(),
    ]
    return "\n\n".join(part for part in parts if part)


def _reference(program: ProgramContext, effort: Effort) -> str:
    shown = [quoted(cut(text, effort.characters)) for text in program.reference[: effort.reference]]
    return "\n\n".join(["# More inputs", "Without answers, to show how inputs differ.", *shown]) if shown else ""


def _messages(stage: StageContext, effort: Effort) -> str:
    """The stage's messages, with the text that is to be improved only named: it has its own place."""
    if len(stage.messages) < 2:
        return ""
    shown = [
        f"[{message.role}]\n"
        + ("(the current text)" if at == stage.position else quoted(cut(message.content, effort.characters)))
        for at, message in enumerate(stage.messages)
    ]
    intro = "The model is sent these messages. A name in braces stands for a part of the input."
    return "\n\n".join(["# The messages", intro, *shown])


def _wrong(records: Sequence[Record], first: int, effort: Effort) -> str:
    return _numbered("# What came of it", records, first, effort)


def _right(records: Sequence[Record], first: int, effort: Effort) -> str:
    return _numbered("# Solved examples", records, first, effort)


def _numbered(heading: str, records: Sequence[Record], first: int, effort: Effort) -> str:
    """first: number of the first; the numbers go through both kinds, so that each names one example."""
    shown = [shown_record(number, record, effort.characters) for number, record in enumerate(records, first)]
    return "\n\n".join([heading, *shown]) if shown else ""


def _solved(demos: Sequence[Example]) -> list[Record]:
    return [Record(demo.input, demo.output, "", "", 1.0) for demo in demos]


def _history(stage: StageContext, tried: Sequence[Tried], effort: Effort) -> str:
    """What was tried, one line each, by what it adds to the current text: it must not look like a text to improve."""
    if not tried:
        return ""
    lines = []
    for one in tried:
        said = one.text.strip() if one.text.strip() != stage.text.strip() else ""
        shown = _in_one_line(additions_of(stage.text, said) or said, effort.remembered)
        trials = "1 trial" if one.trials == 1 else f"{one.trials} trials"
        lines.append(f"* {one.score:.3f} in {trials}: {shown or 'the current text'}")
    intro = "The mean score of each, and what it says that the current text does not."
    return "\n".join(["# Earlier versions, best first", "", intro, "", *lines])


def _in_one_line(text: str, characters: int) -> str:
    return " / ".join(line.strip() for line in cut(text, characters).splitlines() if line.strip())


# --- what is asked ---------------------------------------------------------------------------------------------------


def _task_lines(program: ProgramContext, brief: ProposalBrief, has_history: bool) -> list[str]:
    guide = CHANGES_GUIDE if brief.mode == "builtin" else DEFAULT_GUIDE
    return [
        f"# What to do\n\n{guide}",
        ALL_SOLVED if brief.demos and not brief.records else "",
        ONE_STEP if len(program.stages) > 1 else "",
        LEARN_FROM_HISTORY if has_history else "",
        brief.guidance or "",
        brief.tip or "",
    ]


def _text_asked(stage: StageContext, brief: ProposalBrief, ticks: str) -> list[str]:
    return closing_lines(stage.placeholders, OUTPUTS[brief.output_tokens].words, ticks)


def _changes_asked(stage: StageContext, brief: ProposalBrief, ticks: str) -> list[str]:
    words = OUTPUTS[brief.output_tokens].words
    held = ", ".join(f"{{{name}}}" for name in stage.placeholders)
    place = "a passage" if brief.match_mode == "substring" else "the whole of one message"
    roles = list(dict.fromkeys(message.role for message in stage.messages))
    keys = [
        '* `"type"`: `"replace"` puts the text in the place of what it applies to, `"follow"` puts it below that.',
        f'* `"find"`: what it applies to, {place} copied exactly; where it is left out, the whole current text.',
        f'* `"role"`: of the message that it applies to ({", ".join(roles)}), where `"find"` does not tell which.'
        if len(roles) > 1
        else "",
        '* `"text"`: what is to stand there.',
        '* A proposal of the type `"python"` has only a `"text"`: a program that changes the list `messages` of '
        'objects with "role" and "content" in place. It imports nothing, and keeps every placeholder.'
        if brief.allow_python
        else "",
    ]
    return [
        f"Write at most {words} words." if words else "",
        f"A text that takes the place of the whole must hold these placeholders as they stand: {held}" if held else "",
        "A change of a part holds just the placeholders that the part had." if stage.wildcards else "",
        f"Make up to {brief.count} proposals, as objects with these keys:\n" + "\n".join(key for key in keys if key),
        'Such as: [{"type": "follow", "text": "…"}, {"type": "replace", "find": "…", "text": "…"}]',
        f"Answer with one JSON array of them between two lines of {ticks} and nothing else.",
    ]
