"""An answer that goes on while Streamlit draws the page anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from chatglm3.web.session import Progress, Session

GONE_SECONDS = 90.0
"""Without anybody looking, after which an answer is stopped. Browsers let hidden tabs act once a minute."""


def follow(session: Session, progress: Iterator[Progress], *, gone_seconds: float = GONE_SECONDS) -> None:
    """Make an answer in another thread; returns once it has begun.

    It is stopped when `session.used` has not changed for `gone_seconds`. Raises what `progress` raises first.
    """
    next(progress, None)

    def make() -> None:
        for _ in progress:
            pass

    def watch() -> None:
        while maker.is_alive():
            maker.join(timeout=min(gone_seconds / 4, 1.0))
            if time.monotonic() - session.used > gone_seconds:
                session.stop()

    maker = threading.Thread(target=make, name="chatglm3-follow", daemon=True)
    maker.start()
    threading.Thread(target=watch, name="chatglm3-watch", daemon=True).start()
