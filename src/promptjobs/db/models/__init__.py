"""The tables. Bodies are text and never jsonb, which would reorder keys and rewrite numbers."""

from promptjobs.db.models.base import Base
from promptjobs.db.models.experiments import Experiment
from promptjobs.db.models.jobs import Artifact, Event, Job, Snapshot
from promptjobs.db.models.money import BalanceRow, HoldRow, LedgerRow
from promptjobs.db.models.organisations import ApiKey, IdempotencyKey, SavedConfig, SecretRow, Webhook, WebhookDelivery
from promptjobs.db.models.search import Call, CandidateRow, CompletionRow, RolloutRow, Token, TrialRow, Turn

__all__ = [
    "ApiKey",
    "Artifact",
    "BalanceRow",
    "Base",
    "Call",
    "CandidateRow",
    "CompletionRow",
    "Event",
    "Experiment",
    "HoldRow",
    "IdempotencyKey",
    "Job",
    "LedgerRow",
    "RolloutRow",
    "SavedConfig",
    "SecretRow",
    "Snapshot",
    "Token",
    "TrialRow",
    "Turn",
    "Webhook",
    "WebhookDelivery",
]
