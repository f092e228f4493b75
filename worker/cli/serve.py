"""``token-vault serve``: the HTTP API."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli import environment, output
from worker.cli.exit_codes import ExitCode
from worker.cli.options import Json


def serve(
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where to listen; by default [api] host.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, metavar="N", help="By default [api] port, 8700; 0 for any free one."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Serve tokens over HTTP.

    It needs the access ring alone; any number of copies may run. TLS is for the proxy in front of it.
    """
    from worker.api import server
    from worker.core_dumps import forbid_core_dumps

    forbid_core_dumps()
    environment.configure_log()
    with environment.running_vault(rings=["access"]) as settings:
        address = host or settings.api.host
        bound = server.listen(address, [settings.api.port if port is None else port])
        url = f"http://{f'[{address}]' if ':' in address else address}:{bound.getsockname()[1]}"

        def ready() -> None:
            if as_json:
                output.print_json({"url": url})
            else:
                output.print_line(f"serving at {url}")

        try:
            server.serve(settings, bound, ready)
        except KeyboardInterrupt:
            pass  # told to stop, and stopped in order
        finally:
            bound.close()
    return ExitCode.OK
