"""How many images a second a training takes, and how long it waits for them."""

import logging

from detectron2.engine import HookBase

__all__ = ["Throughput"]

# The first iterations choose kernels and fill queues.
_WARM_UP = 3


class Throughput(HookBase):
    """Puts "images_per_second" (of all processes) and "data_wait_share" into the storage.

    The share, in 0..1, is the part of an iteration's time that the model waits for its batch; where
    it is not small, more DATALOADER.NUM_WORKERS help, and a faster GPU does not. To stand behind
    detectron2's IterationTimer, whose times it takes.

    Args:
        images: of an iteration, of all processes together.
    """

    def __init__(self, images: int):
        self.images = images
        self._iterations = 0
        self._seconds = self._waited = 0.0

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        now = self.trainer.iter
        seconds, when = latest.get("time", (0.0, -1))
        waited, when_waited = latest.get("data_time", (0.0, -1))
        if when != now or when_waited != now or seconds <= 0:
            return  # no times of this iteration: the timer warms up; or not the main process
        self.trainer.storage.put_scalars(
            images_per_second=self.images / seconds, data_wait_share=min(waited / seconds, 1.0)
        )
        if now - self.trainer.start_iter >= _WARM_UP:
            self._iterations += 1
            self._seconds += seconds
            self._waited += min(waited, seconds)

    def after_train(self) -> None:
        if self._iterations:
            logging.getLogger(__name__).info(
                "%.2f images/s over %d iterations; %.0f%% of the time was spent waiting for data.",
                self.images * self._iterations / self._seconds, self._iterations,
                100 * self._waited / self._seconds,
            )  # fmt: skip
