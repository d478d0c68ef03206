"""Python source under construction, shared by the two compilers."""

from __future__ import annotations

import linecache
import struct
from typing import Any


class Source:
    """Lines of one function, its constants, and fresh names for its variables."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: list[str] = []
        self.constants: dict[str, Any] = {}
        self._depth = 1
        self._names = 0

    def line(self, text: str) -> None:
        self.lines.append("    " * self._depth + text)

    def indent(self) -> None:
        self._depth += 1

    def dedent(self) -> None:
        self._depth -= 1

    def fresh(self, stem: str) -> str:
        """A variable name that nothing else uses."""
        self._names += 1
        return f"{stem}{self._names}"

    def constant(self, value: Any, stem: str) -> str:
        """The name under which the function sees this object."""
        name = next((name for name, known in self.constants.items() if known is value), None)
        if name is None:
            name = f"{stem}_{len(self.constants)}"
            self.constants[name] = value
        return name

    def layout(self, formats: str) -> struct.Struct:
        """One shared struct.Struct a format, so that equal groups are one constant."""
        return _LAYOUTS.setdefault(formats, struct.Struct(">" + formats))

    def build(self, signature: str) -> Any:
        """The function, compiled; its source shows up in tracebacks."""
        text = f"def {self.name}{signature}:\n" + "\n".join(self.lines) + "\n"
        filename = f"<wire {self.name}>"
        linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
        space = dict(self.constants)
        exec(compile(text, filename, "exec"), space)
        return space[self.name]


_LAYOUTS: dict[str, struct.Struct] = {}
