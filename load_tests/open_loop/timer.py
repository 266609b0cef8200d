"""A timer of Linux that fires within some microseconds of its moment; those of event loops are a millisecond apart."""

from __future__ import annotations

import ctypes
import os
import time

_TFD_TIMER_ABSTIME = 1
_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """A file descriptor that is readable from a moment on: timerfd_create(2), in `os` from Python 3.13 only."""

    def __init__(self) -> None:
        self.fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _Itimerspec()
        self._value = self._spec.value
        self._pointer = ctypes.byref(self._spec)

    def set(self, at_s: float) -> None:
        """Readable from `at_s` of time.perf_counter() on, whose clock on Linux is CLOCK_MONOTONIC; until then not."""
        seconds = int(at_s)
        self._value.seconds = seconds
        self._value.nanoseconds = int((at_s - seconds) * 1e9)
        _libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, self._pointer, None)

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self.fd)
