"""Clients of Redis, and Celery's settings, from its address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from token_vault.errors import ConfigurationError
from token_vault.secret import SecretDict
from worker.redis_address import NO_CLUSTER, RedisAddress


@contextmanager
def open_client(address: RedisAddress, **options: Any) -> Iterator[redis.Redis]:
    """Yield a client, and close it; options are redis-py's."""
    client = _make_client(address, redis.sentinel.Sentinel, redis.Redis, Retry, options)
    assert isinstance(client, redis.Redis)  # noqa: S101  # redis-py's Sentinel carries no types
    try:
        yield client
    finally:
        client.close()
        for sentinel in _sentinels(client):
            sentinel.close()


def make_async_client(address: RedisAddress, **options: Any) -> redis.asyncio.Redis:
    """Make a client for asyncio, to be closed by ``aclose``."""
    client = _make_client(address, redis.asyncio.sentinel.Sentinel, redis.asyncio.Redis, AsyncRetry, options)
    assert isinstance(client, redis.asyncio.Redis)  # noqa: S101  # likewise
    return client


async def aclose(client: redis.asyncio.Redis) -> None:
    """Close a client, and its connections to Sentinels."""
    await client.aclose()
    for sentinel in _sentinels(client):
        await sentinel.aclose()


def refuse_cluster(client: redis.Redis) -> None:
    """Refuse a Redis in cluster mode.

    Raises:
        ConfigurationError: it is one.
        redis.RedisError: it does not answer.
    """
    try:
        found = client.info("cluster")
    except redis.exceptions.NoPermissionError:
        return  # an operator who denies INFO to this user knows what Redis it is
    if found.get("cluster_enabled"):
        raise ConfigurationError(NO_CLUSTER)


def celery_settings(address: RedisAddress, **transport: Any) -> SecretDict:
    """Return Celery's settings for its broker and its results.

    Args:
        address: of Redis.
        transport: further options of the broker's transport.
    """
    url = _celery_url(address)
    options = (
        {"master_name": address.master, "sentinel_kwargs": _sentinel_options(address, transport, Retry)}
        if address.master
        else {}
    )
    tls = dict(address.tls) or None
    return SecretDict(
        broker_url=url,
        result_backend=url,
        broker_transport_options={**transport, **options},
        result_backend_transport_options=options,
        broker_use_ssl=tls,
        redis_backend_use_ssl=tls,
    )


def _make_client(
    address: RedisAddress,
    sentinel: Any,
    client: Any,
    retry: type[Retry | AsyncRetry],
    options: dict[str, Any],
) -> object:
    arguments = SecretDict({"db": address.database, **address.login, **_tls(address), **options})
    if not address.master:
        return client(**_location(address), **arguments)
    sentinel_options = _sentinel_options(address, options, retry)
    sentinels = sentinel(list(address.servers), sentinel_kwargs=sentinel_options, **arguments)
    return sentinels.master_for(address.master)


def _location(address: RedisAddress) -> dict[str, Any]:
    if address.path:
        return {"unix_socket_path": address.path}
    [(host, port)] = address.servers
    return {"host": host, "port": port}


def _tls(address: RedisAddress) -> SecretDict:
    return SecretDict({"ssl": True, **address.tls} if address.tls else {})


def _sentinel_options(
    address: RedisAddress, options: dict[str, Any], retry: type[Retry | AsyncRetry]
) -> SecretDict:
    timeouts = {name: value for name, value in options.items() if name.startswith("socket_")}
    # A Sentinel that does not answer is not asked again: there are others.
    return SecretDict({**timeouts, **_tls(address), **address.sentinel_login, "retry": retry(NoBackoff(), 0)})


def _celery_url(address: RedisAddress) -> str:
    login = ":".join(quote(str(address.login.get(name, "")), safe="") for name in ("username", "password"))
    user = f"{login}@" if address.login else ""
    if address.path:
        return f"redis+socket://{user}{quote(address.path)}?virtual_host={address.database}"
    scheme = "sentinel" if address.master else "redis"
    hosts = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in address.servers)
    return ";".join(f"{scheme}://{user}{host}/{address.database}" for host in hosts)


def _sentinels(client: redis.Redis | redis.asyncio.Redis) -> list[Any]:
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    return list(manager.sentinels) if manager else []
