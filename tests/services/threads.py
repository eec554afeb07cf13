"""Runs the same thing at the same moment in several threads, each with its own connection."""

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from django.db import connection

T = TypeVar("T")
R = TypeVar("R")
DEADLINE_SECONDS = 60


def at_once(work: Callable[[T], R], items: Iterable[T]) -> list[R | Exception]:
    """What each call returned or raised, in the order of `items`. All start together."""
    todo = list(items)
    results: list[R | Exception | None] = [None] * len(todo)
    barrier = threading.Barrier(len(todo))

    def run(index: int, item: T) -> None:
        try:
            connection.ensure_connection()
            barrier.wait(DEADLINE_SECONDS)
            results[index] = work(item)
        except Exception as error:
            results[index] = error
        finally:
            connection.close()

    threads = [
        threading.Thread(target=run, args=(index, item), daemon=True)
        for index, item in enumerate(todo)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive(), "a worker hangs"
    return [result for result in results if result is not None]


def failures(results: Iterable[object]) -> list[Exception]:
    return [result for result in results if isinstance(result, Exception)]
