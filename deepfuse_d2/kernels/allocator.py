"""Memory of a process on a CPU: what one image or step gives back, the next one gets."""

import ctypes
import logging

__all__ = ["keep_freed_memory"]

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
# Bytes at the end of the heap from which on they are given back after all.
_KEPT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this whole process keep freed memory instead of giving it back to the system.

    The C library gives every large block back as soon as it is free, and the system clears each
    page of the next one: for the maps of a network, a tenth of the time or more. The process then
    stays as large as it ever was, so that is for those that do nothing else.

    Returns:
        whether it does; not so where there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # of macOS, musl and Windows
        return False
    # blocks of all sizes from the heap, where they are found again
    is_set = bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
    logging.getLogger(__name__).debug("Freed memory is kept: %s", is_set)
    return is_set
