"""Instances that agree how to count, in one process: what they say goes through a table, as in the database of a gateway."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import Select, literal, select

from gateway.instances.base import Counting, Handler
from gateway.tasks import spawn

BEAT_S = 0.02


class Said(NamedTuple):
    step: str
    round: int
    wants_local: bool


class TableInstances:
    """`gateway.instances.base.Instances`: one of those that share `table`."""

    is_leader = False
    has_lapsed = False

    def __init__(self, instance_id: str, table: dict[str, Said]) -> None:
        self.instance_id = instance_id
        self.wants_local = False
        self.is_heard = True
        self.has_stopped: Callable[[], bool] = lambda: True
        self.round = 0
        self._table = table
        self._step = "to_shared"
        self._is_new = True
        """What others agree on may have been agreed on without this one."""
        self._beating = spawn(self._go_on(), "beat")

    @property
    def count(self) -> int:
        return len({self.instance_id, *self._table})

    @property
    def counting(self) -> Counting:
        if self._step == "shared":
            return "shared"
        return "local" if self._step == "local" else "paused"

    def may_bury(self) -> bool:
        return False

    def alive(self) -> Select[tuple[str]]:
        return select(literal(self.instance_id))

    def on(self, word: str, handler: Handler) -> None:
        """Nobody announces anything."""

    async def leave(self) -> None:
        self._beating.cancel()
        await asyncio.wait([self._beating])
        self._table.pop(self.instance_id, None)

    async def _go_on(self) -> None:
        while True:
            self._beat()
            await asyncio.sleep(BEAT_S)

    def _beat(self) -> None:
        before = self._table.get(self.instance_id)
        step, round_ = self._step, self.round
        if step.startswith("to_") and not self.has_stopped() and before is not None:
            step, round_ = before.step, before.round
        self._table[self.instance_id] = Said(step, round_, self.wants_local)
        others = [said for name, said in self._table.items() if name != self.instance_id]
        if self._turns_round(others) or before is None or before[:2] != (step, round_):
            return
        if self._step == "to_local" and (step, round_) == ("to_local", self.round):
            if all(said.step in ("to_local", "local") and said.round == round_ for said in others):
                self._step, self._is_new = "local", False
        elif self._step == step == "to_shared" and all(said.step in ("to_shared", "shared") for said in others):
            self._step, self._is_new = "shared", False

    def _turns_round(self, others: list[Said]) -> bool:
        wanted = self.wants_local or any(said.wants_local for said in others)
        latest = max((said.round for said in others), default=0)
        is_begun = any(said.step == "to_local" and said.round == latest > self.round for said in others)
        if wanted and self._step in ("shared", "to_shared"):
            self._step, self.round = (
                "to_local",
                latest if is_begun and not self._is_new else max(latest, self.round) + 1,
            )
        elif wanted and latest > self.round:
            self._step, self.round = "to_local", latest
        elif not wanted and self._step in ("local", "to_local"):
            self._step = "to_shared"
        else:
            return False
        return True
