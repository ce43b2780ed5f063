"""Moves GPUs between the pools of a running loop, where what they are seen to do pays for it.

A thread looks at both pools every few seconds, keeps a window of their rates, and asks
`cluster/moves.py`. A move makes one pool smaller, whose replicas finish their batches first, and
the other larger. Nothing is asked while a replica of either loads, or while the run ends.

An elastic pool (`PoolConfig.min_replicas`) sizes itself, from a distance of seconds: where either
pool is one, nothing is moved from here, and what one gives back the other, or the cluster, takes.

Limits: only those GPUs that the run has already, and only where a replica of either pool asks for
one whole GPU and as many CPUs as one of the other: so what one leaves is a place for the other, on
any node. Every decision is from pairs that are not yet drawn: near the end there is no move.
"""

import logging
import math
import threading
from collections.abc import Sequence
from typing import Self

from ray.exceptions import RayError

from cluster.errors import PoolError
from cluster.moves import Move, Price, should_move
from cluster.packing import Node
from cluster.pool import Pool, PoolConfig, PoolStats
from cluster.rates import RateWindow
from cluster.split import Split
from cluster.telemetry import Board

logger = logging.getLogger(__name__)

LOOK_S = 2.0


def can_swap(configs: Sequence[PoolConfig]) -> bool:
    """Whether the place that any replica leaves is one for a replica of each other pool.

    Two GPUs that are left on two nodes are no place for a replica that wants two: it would wait for
    ever, and they with it. Nor is an elastic pool's size for anybody else to set. Of calls that
    overlap, or that take turns with others on a shared GPU, nobody sees what one takes alone: two
    equal models on one GPU seem half as fast as the plan has them, and a busy one slows the other.
    """
    if any(config.is_elastic or config.calls_per_replica > 1 for config in configs):
        return False
    asked = {(config.num_gpus, config.num_cpus) for config in configs}
    return len(asked) == 1 and asked.pop()[0] == 1


class Balancer:
    """Entered around a running loop; `pools` in the order of draw and describe."""

    def __init__(self, pools: Sequence[Pool], board: Board, num_pairs: int) -> None:
        self._pools = pools
        self._board = board
        self._num_pairs = num_pairs
        self._windows = [RateWindow() for _ in pools]
        self._is_told = False  # that the board is silent
        self._begin: tuple[int, int] | None = None  # rows passed and answered, at the first look
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="balancer", daemon=True)

    def __enter__(self) -> Self:
        if can_swap([pool.config for pool in self._pools]):
            self._thread.start()
        elif any(pool.config.is_elastic for pool in self._pools):
            logger.info("GPUs go where work waits: pools with min_replicas size themselves")
        elif any(pool.config.num_gpus for pool in self._pools):
            logger.info(
                "GPUs stay with their pools: only replicas that ask for one whole GPU each, and "
                "for equally many CPUs, can take each other's places"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.wait(LOOK_S):
            try:
                self._look()
                self._is_told = False
            except PoolError as error:
                # A pool that is gone ends the run elsewhere, with its own words.
                logger.debug("no look at the balance: %s", error)
            except RayError as error:  # the board, which ends no run
                if self._is_over.is_set():
                    return
                level = logging.DEBUG if self._is_told else logging.WARNING
                logger.log(level, "GPUs stay where they are while the board is silent: %s", error)
                self._is_told = True
            except Exception:  # in a thread nobody would hear of it; the run itself is not harmed
                logger.exception("GPUs stay where they are from now on: the balancer failed")
                return

    def _look(self) -> None:
        stats = [pool.stats() for pool in self._pools]
        for window, one in zip(self._windows, stats, strict=True):
            window.see(one)
        if any(one.num_replicas_ready != one.num_replicas or one.is_draining for one in stats):
            return
        move = self._judge(stats)
        if move is None or not move.is_worth:
            return
        logger.info("split of GPUs: %s", move)
        before, after = move.current.split.num_replicas, move.best.split.num_replicas
        changes = sorted(zip(self._pools, before, after, strict=True), key=lambda c: c[2] - c[1])
        for pool, was, wanted in changes:  # the smaller one first: its GPUs are waited for
            if wanted != was:
                pool.resize(wanted)

    def _judge(self, stats: Sequence[PoolStats]) -> Move | None:
        found = [window.rate() for window in self._windows]
        rates = [
            rate.of(pool.name, num_gpus=math.ceil(pool.config.num_gpus))
            for rate, pool in zip(found, self._pools, strict=True)
            if rate is not None
        ]
        if len(rates) < len(stats):
            return None
        current = Split(
            num_replicas=tuple(one.num_replicas for one in stats),
            num_gpus=tuple(pool.config.num_gpus for pool in self._pools),
        )
        counts = self._board.snapshot()
        num_drawn = sum(n.num_rows for name, n in counts.items() if name.startswith("draw"))
        return should_move(
            current,
            rates,
            [Node(num_cpus=math.inf, num_gpus=current.gpus)],
            [Price(load_s=one.load_s) for one in stats],
            max(self._num_pairs - num_drawn, 0) * self._share_live(num_drawn, stats[0].num_rows),
        )

    def _share_live(self, num_passed: int, num_answered: int) -> float:
        """Of the rows that pass the stage, those whose chain has not ended: the model sees no
        others. The board counts what earlier attempts did as well, the pool does not."""
        first_passed, first_answered = self._begin = self._begin or (num_passed, num_answered)
        passed = num_passed - first_passed
        return min(1.0, (num_answered - first_answered) / passed) if passed else 1.0
