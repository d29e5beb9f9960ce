"""A small builder on ElementTree: text and attributes are escaped when written, so nothing slips through."""

from __future__ import annotations

import re
from xml.etree import ElementTree

Element = ElementTree.Element
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


def clean(value: object) -> str:
    """``value`` as text that UTF-8 and HTML can hold: no control characters, no lone surrogates."""
    return _CONTROL.sub("\ufffd", str(value).encode("utf-8", "replace").decode("utf-8"))


def make(tag: str, *children: Element | str | None, **attributes: object) -> Element:
    """An element. Children are elements or strings (None is left out); ``class_`` is written as class and
    ``data_x`` as data-x; an attribute of None is left out."""
    node = ElementTree.Element(tag)
    for name, value in attributes.items():
        if value is not None:
            node.set(name.rstrip("_").replace("_", "-"), clean(value))
    return add(node, *children)


def add(node: Element, *children: Element | str | None) -> Element:
    """Append ``children`` to ``node`` and return it."""
    for child in children:
        if child is None:
            continue
        if isinstance(child, ElementTree.Element):
            node.append(child)
        elif len(node):
            node[-1].tail = (node[-1].tail or "") + clean(child)
        else:
            node.text = (node.text or "") + clean(child)
    return node


def write(node: Element) -> str:
    """``node`` as HTML text."""
    return ElementTree.tostring(node, encoding="unicode", method="html")
