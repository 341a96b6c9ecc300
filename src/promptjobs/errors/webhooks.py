"""What cannot be done with webhooks."""

from promptjobs.errors.base import PromptjobsError


class TooManyWebhooks(PromptjobsError):
    """The organisation has as many webhooks as it may have."""

    status = 409
    code = "too_many_webhooks"

    def __init__(self, limit: int) -> None:
        super().__init__(f"an organisation has at most {limit} webhooks: delete one first")
        self.limit = limit


class WebhookDisabled(PromptjobsError):
    """Nothing is sent to a disabled webhook but what tests it."""

    status = 409
    code = "webhook_disabled"

    def __init__(self, webhook_id: str) -> None:
        super().__init__(f"webhook {webhook_id!r} is disabled: enable it first")
        self.webhook_id = webhook_id
