"""What is wrong with a document, said so that it can be mended without asking anybody."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, where it stands, and what to do about it.

    `path` is the place in the document (`routes[2].retry.attempts`, empty for the whole of it), `reason`
    what was found and what was expected, `line` the 1-based line of the text where it is known, `hint` the
    way out. Each is one plain line, whatever the document holds: findings go to logs and terminals.
    """

    path: str
    reason: str
    line: int | None = None
    hint: str = ""

    def __post_init__(self) -> None:
        for name in ("path", "reason", "hint"):
            text = getattr(self, name)
            if not text.isprintable():
                object.__setattr__(self, name, "".join(c if c.isprintable() else repr(c)[1:-1] for c in text))

    def __str__(self) -> str:
        where = self.path
        if self.line is not None:
            where = f"{where} (line {self.line})" if where else f"line {self.line}"
        text = f"{where}: {self.reason}" if where else self.reason
        return f"{text}; {self.hint}" if self.hint else text


class Invalid(ValueError):
    """A value was built with parts that cannot be; carries `(field, reason)` for every one of them."""

    def __init__(self, *problems: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {reason}" if field else reason for field, reason in problems))
        self.problems = problems
