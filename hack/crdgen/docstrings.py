"""Descriptions of types and fields, from their docstrings: the text that ``kubectl explain`` shows."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Mapping


@functools.cache
def of_fields(cls: type) -> Mapping[str, str]:
    """The text below each field of ``cls`` by the field's Python name; Python itself does not keep it."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for before, node in zip(tree.body, tree.body[1:], strict=False):
        match before, node:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = on_one_line(text)
            case _:
                pass
    return found


def of_type(cls: type) -> str:
    """The first paragraph of the docstring of ``cls``; the others are for those who read the source."""
    return on_one_line(inspect.getdoc(cls) or "").partition("\n")[0]


def on_one_line(text: str) -> str:
    """Each paragraph of ``text`` on one line, since kubectl wraps them itself; without reST's double quotes."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return "\n".join(paragraphs).replace("``", "`")
