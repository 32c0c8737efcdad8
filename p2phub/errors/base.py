"""What all expected errors share, and how to find and tell them."""

from __future__ import annotations

from typing import ClassVar


class P2phubError(Exception):
    """Something went wrong that p2phub expected could go wrong."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "", **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    @property
    def kind(self) -> str:
        """The name scripts match on: the class's own name."""
        return type(self).__name__

    def __str__(self) -> str:
        return self.message or explanation(type(self))


def explanation(error: type[P2phubError]) -> str:
    """The class docstring as one line of running text."""
    return " ".join((error.__doc__ or error.__name__).split())


def all_errors(base: type[P2phubError] = P2phubError) -> list[type[P2phubError]]:
    """`base` and everything below it, parents first."""
    found = [base]
    for child in base.__subclasses__():
        found.extend(all_errors(child))
    return found


def expected(error: BaseException) -> P2phubError | None:
    """The expected error in `error`, also where nurseries wrapped it in groups; None: it holds a
    bug.
    """
    if isinstance(error, P2phubError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [expected(inner) for inner in error.exceptions]
        return found[0] if all(found) else None
    return None
