"""How often a key may ask: a bucket that fills evenly, of which each request takes one."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass

from gateway.errors import ApiError

_FORGET_S = 120.0


@dataclass
class _Bucket:
    left: float
    at: float


class Rates:
    """Of this process: several gateways each allow as many."""

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> dict[str, str]:
        """The headers that tell how much is left.

        Raises:
            ApiError: 429, with the seconds to wait.
        """
        now, per_second = time.monotonic(), self._most / 60
        with self._lock:
            self._forget(now)
            bucket = self._buckets.setdefault(key, _Bucket(self._most, now))
            bucket.left = min(self._most, bucket.left + (now - bucket.at) * per_second)
            bucket.at = now
            if bucket.left >= 1:
                bucket.left -= 1
                return self._headers(bucket.left)
            wait = (1 - bucket.left) / per_second
        raise ApiError(
            429,
            f"Rate limit reached: {self._most} requests a minute. Try again in {wait:.2f} s.",
            type="requests",
            code="rate_limit_exceeded",
            headers={**self._headers(0), "Retry-After": str(math.ceil(wait))},
        )

    def _headers(self, left: float) -> dict[str, str]:
        return {
            "x-ratelimit-limit-requests": str(self._most),
            "x-ratelimit-remaining-requests": str(int(left)),
        }

    def _forget(self, now: float) -> None:
        """A bucket that is full again says nothing."""
        old = [key for key, bucket in self._buckets.items() if now - bucket.at > _FORGET_S]
        for key in old:
            del self._buckets[key]
