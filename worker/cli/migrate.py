"""``token-vault migrate``: brings the database to this version."""

from __future__ import annotations

from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json


def migrate(as_json: Json = False) -> int:
    """Bring the database to this version's tables, roles and consumers."""
    environment.configure_log()
    settings = environment.load_settings()
    environment.require_vault(settings)
    if settings.embedded:
        settings = environment.with_keys(settings)
    with environment.running_servers(settings, redis=False) as complete:
        before, head, left = environment.migrate_to_head(complete, always=True)
        left += environment.apply_configured_consumers(complete)
    if as_json:
        output.print_json({"from": before, "to": head, "left_to_run": left})
    elif before == head:
        output.print_line(f"the database is at {head} already")
    else:
        output.print_line(f"the database went from {before or 'nothing'} to {head}")
    output.print_statements(left)
    return ExitCode.OK
