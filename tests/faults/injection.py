"""The faults by kind; the seed decides their order."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.faults import journal
from tests.faults.points import POINTS, answer_name
from tests.faults.stage import WORKERS, Stage

# How often each kind comes, in a hundred.
SHARES = {
    "killed at a point": 36, "killed at random": 8, "cut before the provider": 7, "cut after it was carried out": 6,
    "half an answer": 6, "answer delayed": 7, "answer too late": 3, "502 though carried out": 3, "503": 3,
    "message doubled": 6, "paused beyond the claim": 3, "Postgres restarted": 1, "Postgres crashed": 1,
    "Postgres away": 1, "Redis restarted": 1, "Redis crashed": 1, "Redis flushed": 2, "clock moved": 1,
    "login during renewals": 4, "power cut": 1,
}  # fmt: skip
# Points that are reached while Postgres is away, or just after.
_WITH_POSTGRES_AWAY = ("spooling", "spooled", "replaying", "replayed")


class Injector:
    """Injects faults into one stage."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self._stage = stage
        self._chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self._kinds: dict[str, Callable[[], str | None]] = {
            "killed at a point": self._kill_at_point, "killed at random": self._kill,
            "cut before the provider": lambda: self._plant("reset_before"),
            "cut after it was carried out": lambda: self._plant("reset_after"),
            "half an answer": lambda: self._plant("cut"),
            "answer delayed": lambda: self._plant(f"delay:{self._chance.uniform(5, 35) / stage.scale:.2f}"),
            "answer too late": lambda: self._plant(f"delay:{self._chance.uniform(42, 60) / stage.scale:.2f}"),
            "502 though carried out": lambda: self._plant("502", carried_out=True),
            "503": lambda: self._plant("503"), "message doubled": self._double,
            "paused beyond the claim": self._pause,
            "Postgres restarted": lambda: self._restart("postgres", signal.SIGINT),
            "Postgres crashed": lambda: self._restart("postgres", self._chance.choice([signal.SIGQUIT, signal.SIGKILL])),
            "Postgres away": self._postgres_away,
            "Redis restarted": lambda: self._restart("redis", signal.SIGTERM),
            "Redis crashed": lambda: self._restart("redis", signal.SIGKILL),
            "Redis flushed": self._flush, "clock moved": self._advance, "login during renewals": self._login,
            "power cut": self._cut_power,
        }  # fmt: skip

    def plan(self, faults: int) -> list[str]:
        """Draw faults in random order, each kind at least once."""
        kinds = list(SHARES)
        rest = max(0, faults - len(kinds))
        planned = kinds + self._chance.choices(kinds, [SHARES[kind] for kind in kinds], k=rest)
        self._chance.shuffle(planned)
        return planned[:faults]

    def inject(self, kind: str) -> None:
        """Cause one fault, and count it by its result."""
        detail = self._kinds[kind]()
        self.counts[f"{kind}: {detail}" if detail else kind] += 1

    def _arm(self, point: str, number: int, timeout: float) -> bool:
        """Arm a point; False where nobody came by."""
        path = self._stage.control / point
        staged = path.with_name(f".arming.{point}")
        staged.write_text(str(int(number)))
        staged.rename(path)
        deadline = time.monotonic() + timeout
        while path.exists():
            if time.monotonic() > deadline:
                with suppress(FileNotFoundError):
                    path.unlink()
                    return False
            time.sleep(0.01)
        return True

    def _kill_at_point(self) -> str | None:
        point = self._chance.choices(POINTS, [1 if each in _WITH_POSTGRES_AWAY else 3 for each in POINTS])[0]
        if point in _WITH_POSTGRES_AWAY:
            return self._kill_at_the_spool(point)
        if point in ("releasing", "released"):
            self._plant("503")
        if point in ("taking", "taken"):
            self._login()
        return point if self._arm(point, signal.SIGKILL, 4) else self._kill()

    def _kill_at_the_spool(self, point: str) -> str | None:
        """Take Postgres away during calls; kill at this point."""
        for _ in range(3):
            self._plant("delay:1.0")
        time.sleep(0.5)
        self._stage.stop_server("postgres", signal.SIGINT)
        away = point in ("spooling", "spooled")
        hit = self._arm(point, signal.SIGKILL, 3) if away else False
        if not away:
            time.sleep(1.5)
        self._stage.start_server("postgres")
        if not away:
            hit = self._arm(point, signal.SIGKILL, 4)
        return point if hit else "Postgres away, nobody came by"

    def _kill(self) -> str | None:
        time.sleep(self._chance.uniform(0, 0.2))
        self._stage.signal(self._chance.choice(WORKERS), signal.SIGKILL)
        return "anywhere"

    def _plant(self, kind: str, *, carried_out: bool | None = None) -> None:
        connection = self._chance.choice(
            ["strict-1", "strict-2", "strict-3", "strict-4", "forgiving", "google"]
        )
        self._stage.emulation.fail_next(f"/idp/{connection}", 1, kind, carried_out=carried_out)

    def _double(self) -> None:
        user_id, connection = self._chance.choice(self._stage.people)
        asked = {"user_id": user_id, "connection": connection, "min_ttl": self._stage.life * 0.45}
        self._stage.send(
            *[("worker.renew_due", "renew", {})] * 4, *[("worker.refresh_token", "interactive", asked)] * 3
        )

    def _pause(self) -> str | None:
        """Pause a process for longer than its claims last."""
        point = self._chance.choice(["claimed", "opened", "sent", "answered", "anywhere"])
        if point == "anywhere":
            pid = self._stage.pids[self._chance.choice(WORKERS)]
            self._stage.signal_process(pid, signal.SIGSTOP)
        else:
            if not self._arm(point, signal.SIGSTOP, 4):
                return "nobody came by"
            pid = self._stopped()
        waking = threading.Timer(165 / self._stage.scale, self._stage.signal_process, (pid, signal.SIGCONT))
        waking.daemon = True
        waking.start()
        return point

    def _stopped(self) -> int:
        """The process that has just stopped itself."""
        while not (marks := list(self._stage.control.glob("stopped.*"))):
            time.sleep(0.01)
        marks[0].unlink()
        return int(marks[0].suffix[1:])

    def _cut_power(self) -> str | None:
        """End all workers at once; what was not synced is gone from the spool."""
        for _ in range(12):
            self._plant(f"delay:{20 / self._stage.scale:.2f}")
        self._stage.sql("UPDATE grants SET due_at = now() WHERE claim_owner IS NULL AND state = 'active'")
        claimed = "SELECT count(*) AS n FROM grants WHERE claim_owner IS NOT NULL"
        _wait(lambda: self._stage.sql(claimed)[0]["n"] >= 12)
        self._stage.stop_server("postgres", signal.SIGINT)
        _wait(lambda: len(self._stage.spooled()) > 1)
        for name in WORKERS:
            self._stage.signal(name, signal.SIGKILL)
        spooled = self._stage.spooled()
        drop_unsynced(spooled, self._stage.journal_folder)
        self._stage.start_server("postgres")
        return "answers in the spool" if spooled else "an empty spool"

    def _restart(self, server: str, how: signal.Signals) -> str | None:
        self._stage.stop_server(server, how)
        self._stage.start_server(server)
        return how.name

    def _postgres_away(self) -> None:
        for _ in range(4):
            self._plant(f"delay:{self._chance.uniform(0.3, 2):.2f}")
        time.sleep(0.4)
        self._stage.stop_server("postgres", signal.SIGINT)
        time.sleep(self._chance.uniform(2, 6))
        self._stage.start_server("postgres")

    def _flush(self) -> None:
        self._stage.flush_redis()

    def _advance(self) -> None:
        self._stage.advance(self._stage.life * self._chance.uniform(0.02, 0.1))

    def _login(self) -> None:
        """Log a user in while the connection's grants are renewed."""
        user_id, _ = self._chance.choice(self._stage.people)
        self._stage.emulation.login(user_id)
        self._stage.send(("worker.sync_user", "sync", {"user_id": user_id}))


def _wait(condition: Callable[[], bool], seconds: float = 4) -> None:
    """Wait until a condition holds, or as long as it is worth it."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def drop_unsynced(files: Sequence[Path], journals: Path) -> None:
    """Leave of a spool what a power cut would: what a journal says was synced."""
    contents, names = set[str](), set[str]()
    for line in journal.read(journals):
        if line["what"] == "content synced":
            contents.add(line["name"])
        elif line["what"] == "names synced":
            names.update(line["names"])
    for path in files:
        if path.name not in names:
            path.unlink(missing_ok=True)
        elif answer_name(path) not in contents:
            os.truncate(path, 0)
