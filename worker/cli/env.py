"""``token-vault env``: the embedded vault's addresses, for apps beside it."""

from __future__ import annotations

import shlex

from token_vault.errors import ConfigurationError
from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json


def env(as_json: Json = False) -> int:
    """Print what apps need to read an embedded vault.

    As assignments for a shell: addresses with their passwords and the access ring, so keep them out of logs. The
    refresh ring is never among them.
    """
    from worker import embedded

    settings = environment.load_settings()
    if not settings.embedded:
        raise ConfigurationError("DATABASE_URL is set: only the addresses of an embedded vault are printed")
    servers = embedded.running(settings.home)
    redis = servers.redis_url if settings.redis_url is None else None
    values = {
        "DATABASE_URL": servers.database_url.reveal(),
        **({"REDIS_URL": redis.reveal()} if redis else {}),
        "VAULT_ACCESS_KEYS": ",".join(key.reveal() for key in settings.access_keys),
    }
    if as_json:
        output.print_json(values)
    else:
        for name, value in values.items():
            output.print_line(f"{name}={shlex.quote(value)}")
    return ExitCode.OK
