"""The lease on a running job, as its worker sees it: no call starts after it has run out."""

import time

from promptjobs.errors import LeaseLost


def boot_seconds() -> float:
    """Seconds since an arbitrary start, also while the machine is suspended: a lease goes on then."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """Held until `until`, which is counted from before the heartbeat was sent: never later than the database's."""

    def __init__(self, job_id: str, epoch: int, until: float) -> None:
        self.job_id, self.epoch, self.until = job_id, epoch, until

    @property
    def seconds_left(self) -> float:
        return self.until - boot_seconds()

    def require(self) -> None:
        """Raises LeaseLost."""
        if self.seconds_left <= 0:
            raise LeaseLost(self.job_id)
