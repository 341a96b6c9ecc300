"""Calls of task apps that the interceptor refuses."""

from promptjobs.errors.base import PromptjobsError


class CallRefused(PromptjobsError):
    """A task app's call is not carried out; nothing has been sent to a provider."""

    status = 400
    code = "call_refused"


class CallInvalid(CallRefused):
    """The call's body is not a chat completion that can be carried out; `param` is the field, where one is known."""

    code = "invalid_call"

    def __init__(self, detail: str, param: str | None = None) -> None:
        super().__init__(f"{param}: {detail}" if param else detail)
        self.param = param


class ToolNotAllowed(CallInvalid):
    """The call carries a tool that the job's config does not allow to its module."""

    code = "tool_not_allowed"

    def __init__(self, tool: str, module: str, allowed: tuple[str, ...]) -> None:
        names = ", ".join(map(repr, allowed)) or "none"
        super().__init__(f"module {module!r} may not carry the tool {tool!r}; allowed_tools: {names}", "tools")
        self.tool, self.module, self.allowed = tool, module, allowed


class CallTooLarge(CallRefused):
    status = 413
    code = "call_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the body is larger than {max_bytes} bytes")
        self.max_bytes = max_bytes


class CallerGone(CallRefused):
    """The task app closed the connection before its call was complete; there is nobody to answer."""

    status = 499
    code = "client_disconnected"


class EndpointUnknown(CallRefused):
    """A path of the interceptor that is no chat completion."""

    status = 404
    code = "unknown_endpoint"


class MethodNotAllowed(CallRefused):
    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"the method must be {allowed}, got {method}")
        self.method, self.allowed = method, allowed


class CallBudgetExhausted(CallRefused):
    """A cap of the call's job, or its organisation's balance, does not hold the call. Facts as in BudgetExhausted."""

    status = 402
    code = "budget_exhausted"

    def __init__(self, cap: str, words: str) -> None:
        super().__init__(f"{cap}: {words}")
        self.cap, self.words = cap, words


class TokenUnknown(CallRefused):
    status = 401
    code = "unknown_token"


class TokenRevoked(CallRefused):
    """The token has been revoked or has expired, or its job has ended or runs elsewhere."""

    status = 401
    code = "token_revoked"


class MeteringUnavailable(PromptjobsError):
    """A call could not be recorded, or could not have been: it is not carried out, or its reply is withheld."""

    status = 503
    code = "metering_unavailable"
