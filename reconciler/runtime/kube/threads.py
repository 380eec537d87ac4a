"""Threads that are missed when they die."""

import logging
import threading
from collections.abc import Callable

OnCrash = Callable[[BaseException], None]
"""Told of an exception nobody expected, in the thread that dies of it: usually ends the process."""

_log = logging.getLogger(__name__)


def start_thread(name: str, run: Callable[[], None], on_crash: OnCrash | None) -> threading.Thread:
    """Run something in a daemon thread. An exception out of it is a bug: logged, and told to `on_crash`."""

    def guarded() -> None:
        try:
            run()
        except Exception as error:  # noqa: BLE001 – handed on, to whoever ends the process
            _log.exception("a thread crashed", extra={"which": name})
            if on_crash is not None:
                on_crash(error)

    thread = threading.Thread(target=guarded, name=name, daemon=True)
    thread.start()
    return thread
