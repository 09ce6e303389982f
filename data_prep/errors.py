"""How the commands of this package fail: one message that the user can act on."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 frame`, `2 frames`."""
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


class PrepError(Exception):
    """Something the user can mend. The text is the whole message; the command ends with status 2."""


class Problems:
    """Collects everything that is wrong, so that it can be mended in one go instead of one at a time."""

    SHOWN = 10

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        self.found.append(problem)

    def __len__(self) -> int:
        return len(self.found)

    def text(self) -> str:
        """The first ten, a line each, and how many more there are."""
        lines = [f'  {problem}' for problem in self.found[: self.SHOWN]]
        if len(self) > self.SHOWN:
            lines.append(f'  ... and {len(self) - self.SHOWN} more')
        return '\n'.join(lines)

    def raise_if_any(self, heading: str, remedy: str = '') -> None:
        """Raise PrepError with `heading`, the list and `remedy`, unless nothing was found."""
        if self.found:
            raise PrepError('\n'.join(part for part in (f'{heading}:', self.text(), remedy) if part))
