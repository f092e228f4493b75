"""Each part of the program reaches Redis by a Unix socket, by Sentinels, and refuses a cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.redis_parts import budget, doctor
from tests.support.wait import WAIT_SECONDS, until
from token_vault.secret import Secret
from worker.cli.checks import CheckResult
from worker.cli.redis_checks import check_redis
from worker.embedded.redis import Redis
from worker.redis_address import NO_CLUSTER
from worker.settings import Settings, load

PASSWORD = "p@ss/w:rd#?%"
ENCODED = "p%40ss%2Fw%3Ard%23%3F%25"


@contextmanager
def server(folder: Path, *lines: str, sentinel: bool = False) -> Iterator[Path]:
    """Run the embedded Redis' program with a configuration of the test's own; give its socket."""
    folder.mkdir()
    socket, configuration = folder / "redis.sock", folder / "redis.conf"
    given = [f'dir "{folder}"', f'unixsocket "{socket}"', 'save ""', *lines]
    configuration.write_text("\n".join(given) + "\n", encoding="utf-8")
    program = [str(Redis(folder).program()), str(configuration), *(["--sentinel"] if sentinel else [])]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: socket.exists() or process.poll() is not None, "the server listens")
            assert process.poll() is None
            yield socket
        finally:
            process.kill()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Redis on a socket and a port, and two Sentinels that watch it; the first of three is not there."""
    folder = tmp_path_factory.mktemp("r")
    port, sentinel, dead = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        socket = stack.enter_context(
            server(folder / "one", f"port {port}", f'requirepass "{PASSWORD}"', f'masterauth "{PASSWORD}"')
        )
        stack.enter_context(
            server(
                folder / "two", f"port {sentinel}", 'requirepass "sentinels"',
                f"sentinel monitor vault 127.0.0.1 {port} 1", f'sentinel auth-pass vault "{PASSWORD}"', sentinel=True,
            )
        )  # fmt: skip
        yield {
            "socket": f"unix://:{ENCODED}@{socket}?db=1",
            "sentinels": f"redis+sentinel://:{ENCODED}@127.0.0.1:{dead},127.0.0.1:{sentinel}/vault/1"
            "?sentinel_password=sentinels",
            "celery's sentinels": f"sentinel://:{ENCODED}@127.0.0.1:{dead}/1;sentinel://:{ENCODED}@127.0.0.1:{sentinel}/1"
            "?master_name=vault&sentinel_password=sentinels",
        }


@pytest.fixture(autouse=True)
def _environment(environment: Path) -> None:
    """The application reads its settings when it is imported."""


def broker(given: Settings) -> bool:
    from worker.app import make_app

    app = make_app(given)
    with app.connection_for_write(connect_timeout=WAIT_SECONDS) as connection:
        connection.ensure_connection(max_retries=0, timeout=WAIT_SECONDS)
        connection.default_channel.client.ping()
        queue = connection.SimpleQueue("probe")
        queue.put([["sent"], {}, {}], headers={"task": "probe", "id": "1"})  # nothing else than tasks is read
        assert queue.get(timeout=WAIT_SECONDS).payload == [["sent"], {}, {}]
        queue.close()
    return True


def results(given: Settings) -> bool:
    from worker.app import make_app

    backend = make_app(given).backend
    backend.client.set("result", "1")
    return bool(backend.client.connection_pool.connection_kwargs["db"] == 1)


PARTS: list[Callable[[Settings], bool]] = [broker, results, budget, doctor]


@pytest.mark.parametrize("form", ["socket", "sentinels", "celery's sentinels"])
def test_each_part_reaches_it(addresses: dict[str, str], form: str) -> None:
    """A message goes round, a result is stored, the rate limit is shared and ``doctor`` is content."""
    given = load().model_copy(update={"redis_url": Secret(addresses[form])})
    for part in PARTS:
        assert part(given), part.__name__


def test_a_cluster_is_refused_in_words(tmp_path: Path) -> None:
    """``doctor`` and the start of a worker say what Redis Cluster cannot do, and what to name instead."""
    from worker import app

    with (
        server(tmp_path / "cluster", f"port {free_port()}", "cluster-enabled yes") as socket,
        pytest.MonkeyPatch.context() as patch,
    ):
        url = f"unix://{socket}"
        [check] = check_redis(load().model_copy(update={"redis_url": Secret(url)}))
        assert (check.result, check.message) == (CheckResult.FAIL, NO_CLUSTER)
        patch.setenv("REDIS_URL", url)
        with pytest.raises(SystemExit):
            app._refuse_cluster()
