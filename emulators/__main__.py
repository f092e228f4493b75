"""`python -m emulators`: start everything on one port.

The first line on stdout says where.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvicorn

from emulators import demo, wiring
from emulators.app import build
from emulators.server import Server, listen, protocol, quiet_signals
from emulators.world import StateUnreadable, World

SAVE_EVERY = 3.0  # seconds
DEMO_HISTORY = 20  # pairs remembered per grant, so that the state file of a long demo stays small


def main() -> int:
    """Run until SIGTERM or SIGINT.

    The exit status is 2 when it cannot start.
    """
    options = _options()
    try:
        bound = listen(options.host, options.port)
    except OSError as wrong:
        print(f"emulators: cannot listen on {options.host}:{options.port}: {wrong.strerror}", file=sys.stderr)
        return 2
    port = bound.getsockname()[1]
    host = "127.0.0.1" if options.host == "0.0.0.0" else options.host
    world = _world(options, options.public_url or f"http://{host}:{port}")
    try:
        _fill(world, options)
    except (StateUnreadable, OSError) as wrong:
        print(f"emulators: {wrong}", file=sys.stderr)
        bound.close()
        return 2
    quiet_signals()
    with asyncio.Runner() as runner:
        runner.run(_serve(world, options, bound))
    return 0


async def _serve(world: World, options: argparse.Namespace, bound: Any) -> None:
    transports: dict[Any, asyncio.Transport] = {}
    gate = build(world, transports)
    config = uvicorn.Config(
        gate,
        http=protocol(transports),
        ws="none",
        lifespan="off",
        log_level="info" if options.verbose else "critical",
        access_log=options.verbose,
        timeout_graceful_shutdown=2,
        server_header=False,
        proxy_headers=False,
        backlog=2048,
    )

    def leave() -> None:
        gate.release()
        world.events.close_streams()

    server = Server(config, lambda: print(json.dumps(wiring.endpoints(world)), flush=True), leave)
    work: list[Coroutine[Any, Any, None]] = []
    if options.demo and not options.quiet_demo:
        work.append(demo.keep_logging_in(world))
    if options.state_file is not None:
        work.append(_keep_saving(world, options.state_file))
    running = [asyncio.create_task(each) for each in work]
    await server.serve([bound])
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    if options.state_file is not None:
        _save(world, options.state_file)


async def _keep_saving(world: World, path: Path) -> None:
    while _save(world, path):  # noqa: ASYNC110  (there is nothing to wait for but time)
        await asyncio.sleep(SAVE_EVERY)


def _save(world: World, path: Path) -> bool:
    try:
        world.save(path)
    except OSError as wrong:
        print(f"emulators: the state file {path} cannot be written: {wrong.strerror}", file=sys.stderr)
        return False
    return True


def _world(options: argparse.Namespace, base_url: str) -> World:
    life = options.token_life if options.token_life is not None else (60.0 if options.demo else None)
    return World(
        base_url.rstrip("/"),
        client_id=os.environ.get("EMULATOR_CLIENT_ID") or "emulated-m2m-client",
        client_secret=os.environ.get("EMULATOR_CLIENT_SECRET") or "emulated-m2m-secret",
        token_life=life,
        history=DEMO_HISTORY if options.demo else 5000,
    )


def _fill(world: World, options: argparse.Namespace) -> None:
    if options.demo:
        world.settings.scopes = demo.SCOPES
        world.applications[demo.SPA.client_id] = demo.SPA
    if options.state_file is not None and options.state_file.exists():
        world.load(options.state_file)
    elif options.demo:
        demo.seed(world)
    if options.write_config is not None:
        options.write_config.write_text(wiring.config_toml(world), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m emulators", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--public-url", help="how clients reach it, if not at http://HOST:PORT")
    parser.add_argument("--demo", action="store_true", help="begin with a small company's users")
    parser.add_argument("--quiet-demo", action="store_true", help="nobody logs in again by themselves")
    parser.add_argument("--token-life", type=float, help="seconds; default: 60 in a demo, else as in reality")
    parser.add_argument("--state-file", type=Path, help="keep the state here across restarts")
    parser.add_argument("--write-config", type=Path, help="write a TOML file with the token endpoints")
    parser.add_argument("--verbose", action="store_true", help="log every request to stderr")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
