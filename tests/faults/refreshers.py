"""64 refreshers on one grant at once, in many rounds.

The provider answers after 0 to 60 s and Redis is killed or emptied in between; delays, call and claim are shorter by
the same factor. Where an answer comes after the call's end the outcome is in doubt: that is one spend all the same.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from emulators.faults import CARRIED_OUT
from tests.faults.stage_setup import stage


def refresh(
    folder: Path, *, rounds: int, seed: int, scale: float, beside: int = 16
) -> tuple[Counter[int], int]:
    """Run the rounds.

    Returns:
        How many of them led to how many spends of the refresh token they began with; and how many calls ended before
        the provider had read them, nothing being spent and the outcome in doubt, as it has to be.
    """
    chance, life = random.Random(seed), max(900.0, rounds * 2.0)
    with stage(folder, grants=rounds, life=life, scale=scale, fresh_for=life * 0.4) as made:
        made.celery("sync", "sync")
        made.send(("worker.sync_all", "sync", {}))
        made.filled()
        made.signal("sync", signal.SIGKILL)
        del made.pids["sync"]
        before = {row["user_id"]: row for row in made.sql("SELECT * FROM grants")}
        first = {made.digest(row): user for user, row in before.items()}
        for name in {connection for _, connection in made.people}:
            for _ in range(rounds):
                made.emulation.fail_next(f"/idp/{name}", 1, f"delay:{chance.uniform(0, 60) / scale:.2f}")
        made.celery("interactive", "interactive", threads=8)
        done = folder / "rounds"
        made.fork(
            "crowd",
            role="crowd",
            people=str(folder / "people.json"),
            life=life,
            beside=beside,
            done=str(done),
        )
        while made.alive("crowd") and (not done.exists() or len(done.read_text().split()) < rounds):
            time.sleep(chance.uniform(1, 4))
            made.restart_ended(
                "interactive"
            )  # Celery may end when it loses Redis; a service manager starts it again
            if chance.random() < 0.5:
                made.flush_redis()
            else:
                made.stop_server("redis", signal.SIGKILL)
                made.start_server("redis")
        played = set(done.read_text().split())
        if len(played) < rounds:
            print(f"the crowd ended early: {made.said('crowd')[-2000:]}", file=sys.stderr)
        doubted = {
            row["user_id"] for row in made.sql("SELECT user_id FROM grants WHERE in_doubt_since IS NOT NULL")
        }
        made.kill_all()
        spends = Counter(dict.fromkeys(played, 0))
        for call in made.emulation.call_log("/idp/"):
            user = first.get(call["token"])
            if (
                user in played
                and call["error"] is None
                and (call["fault"] in CARRIED_OUT or call["status"] == 200)
            ):
                spends[user] += 1
        unread = {
            user
            for user in doubted & played
            if not spends[user] and made.emulation.ledger(user, before[user]["connection"])[0]["live"]
        }
    return Counter(times for user, times in spends.items() if user not in unread), len(unread)
