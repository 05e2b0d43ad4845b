"""An interrupt waits for the end of what must not be left half done."""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports] -- without the enums of `signal`: 10 x faster
import threading
from collections.abc import Callable
from typing import Any


def uninterrupted(run: Callable[[], None]) -> None:
    """Let an interrupt wait for the end of `run`, so that no update is left half done."""
    handler: Any = None
    if threading.current_thread() is threading.main_thread():
        handler = _signal.getsignal(_signal.SIGINT)
    if not callable(handler):
        run()
        return
    pending: list[Any] = []
    _signal.signal(_signal.SIGINT, lambda *args: pending.append(args))
    try:
        run()
    finally:
        _signal.signal(_signal.SIGINT, handler)
        if pending:
            handler(*pending[0])
