"""A limit on the memory that a library may take at once."""

import sys
from types import TracebackType

if sys.platform == "linux":
    import resource

    PAGE = resource.getpagesize()
    LIMITS = resource.getrlimit(resource.RLIMIT_DATA)  # soft and hard, of this process


class AllocationLimit:
    """Make allocations fail inside a ``with`` block once this process has taken `amount` more bytes; Linux only.

    Some files declare millions of frames or tables in a few bytes, and a library believes them. The limit holds for all
    threads of the process. Entering the block takes about ten microseconds, so a block for a single call is cheap.

    Args:
        amount: number of bytes.
    """

    def __init__(self, amount: int) -> None:
        self._amount = amount

    def __enter__(self) -> None:
        if sys.platform == "linux":
            with open("/proc/self/statm", "rb", buffering=0) as usage:
                used = PAGE * int(usage.read(100).split()[5])
            limits = [limit for limit in (used + self._amount, *LIMITS) if limit != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_DATA, (min(limits), LIMITS[1]))

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if sys.platform == "linux":
            # A block in another thread may have set the limit on entry, so it is not restored.
            resource.setrlimit(resource.RLIMIT_DATA, LIMITS)
