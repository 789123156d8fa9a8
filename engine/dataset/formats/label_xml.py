"""Parse XML label files: small, and without document types, so without expanding or external entities."""

from __future__ import annotations

from contextlib import suppress
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from engine.errors import DataError

DEEPEST = 50
"""Maximum nesting of elements."""


def parse_xml(data: bytes, name: str) -> Element:
    """Return the root element of a document.

    Raises:
        DataError: It is not well-formed, is nested too deeply, or declares a document type.
    """
    builder, depth = TreeBuilder(), 0
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise DataError(f"{name} declares a document type: labels have none, take it out")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise DataError(f"{name} has elements nested more than {DEEPEST} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data.strip(), True)
    except expat.ExpatError as error:
        raise DataError(f"{name} is not well-formed XML: {error}") from None
    except (ValueError, LookupError) as error:  # an encoding that Python does not know
        raise DataError(f"{name} cannot be read as XML: {error}") from None
    return builder.close()


def root_tag(head: bytes) -> str:
    """Return the name of the first element from the first bytes of a document; empty if it is not XML."""
    found: list[str] = []
    parser = expat.ParserCreate()

    class _Found(Exception):  # noqa: N818 - ends the parse
        pass

    def start(tag: str, _: dict[str, str]) -> None:
        found.append(tag)
        raise _Found

    parser.StartElementHandler = start
    with suppress(_Found, expat.ExpatError, ValueError, LookupError):
        parser.Parse(head.lstrip(), False)
    return found[0] if found else ""
