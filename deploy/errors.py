"""The one error of the scripts in this folder: something outside must be there and is not."""

from __future__ import annotations


class CannotGoOn(Exception):
    """`problem` says what is missing and where; `cure` is the one command or step that helps."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(f"{problem}\n  cure: {cure}")
        self.problem = problem
        self.cure = cure
