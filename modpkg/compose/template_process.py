"""The process that renders chat templates.

A template is a program, and Jinja's sandbox bounds neither its time nor its memory; here the
operating system does. The argument is the file in which transformers defines how templates are
compiled. Of that file only the compiler is run: the whole takes seconds to import.

A request is a length (8 bytes) and a pickle of the process that started this one; an answer is a
length and JSON.
"""

from __future__ import annotations

import ast
import json
import pickle
import struct
import sys
from typing import Any, BinaryIO

from modpkg.core.system_limits import ignore_interrupts, limit_process, processor_limit

COMPILER = "_compile_jinja_template"
_NEEDED = (COMPILER, "_cached_compile_jinja_template")
_AVAILABLE = "is_jinja_available"


def compiler(file: str) -> Any:
    """Return transformers' own function that compiles a template."""
    try:
        with open(file, encoding="utf-8") as opened:
            tree = ast.parse(opened.read())
        tree.body = [node for node in tree.body if _is_part(node)]
        space: dict[str, Any] = {"__name__": "templates", _AVAILABLE: lambda: True}
        exec(compile(tree, file, "exec"), space)  # noqa: S102
        space[COMPILER]("{{ 1 }}").render()
        return space[COMPILER]
    except Exception:  # another version of transformers: the whole of it knows how
        from transformers.utils import chat_template_utils

        return getattr(chat_template_utils, COMPILER)


def _is_part(node: ast.stmt) -> bool:
    """Return whether a statement of transformers' file is for compiling templates."""
    if isinstance(node, ast.Import):
        return all(alias.name != "numpy" for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return node.level == 0
    if isinstance(node, ast.FunctionDef):
        return node.name in _NEEDED
    return isinstance(node, ast.If) and _AVAILABLE in ast.dump(node.test)


def main() -> None:
    """Render what is asked for, until the asking process ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    ignore_interrupts()
    compiled = compiler(sys.argv[1])
    memory, processor = pickle.loads(_read(source))  # noqa: S301
    limit_process(memory)
    while request := _read(source):
        template, values, most = pickle.loads(request)  # noqa: S301
        with processor_limit(processor):
            answer = _answer(compiled, template, values, most)
        sink.write(struct.pack("<Q", len(answer)) + answer)
        sink.flush()


def _answer(compiled: Any, template: str, values: dict[str, Any], most: int) -> bytes:
    """Return the answer to one request: a text, the error of the template, or the bound."""
    try:
        text = compiled(template).render(**values)
        answer = {"text": text} if len(text) <= most else {"bound": "output"}
    except MemoryError:
        answer = {"bound": "memory"}
    except Exception as error:  # templates are programs: they raise errors of any type
        answer = {"error": f"{type(error).__name__}: {error}"[:1000]}
    return json.dumps(answer).encode()


def _read(source: BinaryIO) -> bytes:
    """Return what has been sent; empty at the end."""
    head = source.read(8)
    return source.read(struct.unpack("<Q", head)[0]) if len(head) == 8 else b""
