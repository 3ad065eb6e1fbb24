"""A limit on the memory that a library may take at once."""

import os
import sys
from types import TracebackType

if sys.platform == "linux":
    import resource

    PAGE = resource.getpagesize()


class AllocationLimit:
    """Make allocations fail inside a ``with`` block once this process has taken so many more bytes; Linux only.

    Some files declare millions of frames or tables in a few bytes, and a library believes them. Entering the block
    takes microseconds, so that it may hold a single call.

    Args:
        amount: number of bytes.
    """

    def __init__(self, amount: int) -> None:
        self._amount = amount
        self._usage = open("/proc/self/statm", "rb", buffering=0) if sys.platform == "linux" else None

    def __enter__(self) -> None:
        if self._usage is not None:
            self._before = resource.getrlimit(resource.RLIMIT_DATA)
            used = PAGE * int(os.pread(self._usage.fileno(), 100, 0).split()[5])
            soft, hard = self._before
            limits = [limit for limit in (used + self._amount, soft, hard) if limit != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._usage is not None:
            resource.setrlimit(resource.RLIMIT_DATA, self._before)
