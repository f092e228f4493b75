"""What ``doctor`` looks at of Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from token_vault.errors import ConfigurationError
from worker.cli.checks import Check, CheckResult

if TYPE_CHECKING:
    from worker.settings import Settings

ANSWER_SECONDS = 5.0
# A queue that grows by a tenth of the memory is a night's work; there is time to act.
MAX_MEMORY_SHARE = 0.9
# Written and gone after a second: a replica answers, and takes no messages.
_PROBE_KEY = "token-vault:doctor"


def check_redis(settings: Settings) -> list[Check]:
    """Check that Redis takes messages, and keeps them."""
    import redis

    from worker import embedded
    from worker.cli.redis_errors import describe
    from worker.redis_address import EXAMPLE, RedisAddress
    from worker.redis_clients import open_client, refuse_cluster

    found = embedded.find(settings.home) if settings.redis_url is None else None
    url = settings.redis_url or (found.redis_url if found else None)
    if not url:
        return [Check("Redis", CheckResult.WARN, "REDIS_URL is not set: no workers, no refresh on demand")]
    timeouts = {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS}
    try:
        with open_client(RedisAddress.parse(url), **timeouts) as client:
            refuse_cluster(client)
            client.set(_PROBE_KEY, 1, px=1000)
            try:
                return judge_redis(client.info())
            except redis.exceptions.NoPermissionError:
                return [
                    Check(
                        "Redis", CheckResult.OK, "answers; its version and memory are not this user's to see"
                    )
                ]
    except ConfigurationError as error:  # a cluster
        return [Check("Redis", CheckResult.FAIL, str(error))]
    except (redis.RedisError, OSError) as error:
        fix = f"check that it runs and that REDIS_URL names it: {EXAMPLE}"
        return [Check("Redis", CheckResult.FAIL, f"is of no use: {describe(error)}; {fix}")]


def judge_redis(info: Mapping[str, Any]) -> list[Check]:
    """Judge a Redis that takes writes by its INFO."""
    if info.get("role") == "slave":  # Redis' own word
        # One that is writable takes messages, and loses them with its next copy of the primary.
        said = "is a replica, though a writable one: let REDIS_URL name the primary"
        return [Check("Redis", CheckResult.FAIL, said)]
    # Valkey also names the Redis version it is compatible with, which is not its own.
    version = info.get("valkey_version") or info.get("redis_version", "unknown")
    return [Check("Redis", CheckResult.OK, f"answers, version {version}"), *_judge_memory(info)]


def _judge_memory(info: Mapping[str, Any]) -> list[Check]:
    limit, used = info.get("maxmemory", 0), info.get("used_memory", 0)
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys-"):
        said = f"maxmemory-policy is {policy}, so a full Redis drops queued tasks: set it to noeviction"
        return [Check("Redis memory", CheckResult.WARN, said)]
    if limit and used > MAX_MEMORY_SHARE * limit:
        said = (
            f"{used >> 20} of {limit >> 20} MB are used, and a full Redis takes no tasks: raise maxmemory, "
            "or see what else is in it"
        )
        return [Check("Redis memory", CheckResult.WARN, said)]
    return []
