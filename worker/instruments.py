"""What a process counts and times, for Prometheus.

Labels are names from the settings or from this program: never a user, and never text from a provider or Auth0.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

# In seconds: a token endpoint answers within tenths of a second, and no call takes longer than 40 s.
_CALL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)

renewals = Counter(
    "token_vault_renewals",
    "Renewals of grants, by how they ended.",
    ("tenant", "connection", "outcome"),
    registry=REGISTRY,
)
provider_calls = Histogram(
    "token_vault_provider_call_seconds",
    "How long token requests take, by what was answered: a pair, a refusal, or nothing.",
    ("provider", "answer"),
    buckets=_CALL_BUCKETS,
    registry=REGISTRY,
)
auth0_calls = Histogram(
    "token_vault_auth0_call_seconds",
    "How long calls to Auth0 take, by the rate limit that counts them and the answer's status, or none.",
    ("domain", "group", "status"),
    buckets=_CALL_BUCKETS,
    registry=REGISTRY,
)
auth0_calls_left = Gauge(
    "token_vault_auth0_calls_left",
    "Calls that Auth0 had left for this tenant, all programs together, as its last answer said.",
    ("tenant", "limit"),
    registry=REGISTRY,
)
auth0_waits = Counter(
    "token_vault_auth0_budget_wait_seconds",
    "Seconds for which calls waited for the rate limit budget.",
    ("tenant", "limit"),
    registry=REGISTRY,
)
deliveries = Counter(
    "token_vault_delivery_attempts",
    "Events posted to webhooks, by what became of them.",
    ("outcome",),
    registry=REGISTRY,
)
