"""Settings of a server whose messages to other processes get lost, doubled and delayed, by the dice of LOSSY_SEED."""

import asyncio
import os
import random
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer

from callplatform import settings
from callplatform.settings import *  # noqa: F403

LOST, DOUBLED, DELAYED = 0.4, 0.2, 0.5  # the odds of each; a message may be both doubled and delayed
DELAY_S = 0.5  # at most: long enough for many others to overtake it


class LossyLayer(RedisPubSubChannelLayer):
    """Loses on the way out, so that each of the other processes misses the same."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dice = random.Random(os.environ["LOSSY_SEED"])
        self.late: set[asyncio.Task[None]] = set()

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if self.dice.random() < LOST:
            return
        for _ in range(2 if self.dice.random() < DOUBLED else 1):
            delay = self.dice.uniform(0, DELAY_S) if self.dice.random() < DELAYED else 0
            task = asyncio.create_task(self._send_late(delay, group, message))
            self.late.add(task)
            task.add_done_callback(self.late.discard)

    async def _send_late(self, delay: float, group: str, message: dict[str, Any]) -> None:
        await asyncio.sleep(delay)
        await self._get_layer().group_send(group, message)


CHANNEL_LAYERS = {"default": {**settings.CHANNEL_LAYERS["default"], "BACKEND": "tests.lossy.LossyLayer"}}
