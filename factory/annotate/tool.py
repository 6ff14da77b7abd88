"""The Protocol of an annotation tool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from factory.annotate import TOOLS
from factory.annotate.shapes import Shape
from factory.core.registry import resolve
from manifests.labels import LabelScheme


class AnnotationTool(Protocol):
    """The file format of an annotation tool. Its methods are static, as the class is never built.

    Attributes:
        suffix: of its annotation files.
    """

    suffix: str

    @staticmethod
    def skeleton(name: str, size: tuple[int, int], mark: Mapping[str, Any]) -> dict[str, Any]:
        """An annotation file without annotations.

        Args:
            name: of the image, without suffix. size: its height and width. mark: describes it, and comes back.
        """
        ...

    @staticmethod
    def beside(scheme: LabelScheme) -> dict[str, str]:
        """Files that list the classes for the tool: name -> content."""
        ...

    @staticmethod
    def read(path: Path, size: tuple[int, int]) -> list[Shape]:
        """The shapes of a file, in the order in which they are painted.

        Raises:
            UserError: for a file that the tool does not write, or shapes that are not areas with a class.
        """
        ...


def resolve_tool(name: str, where: str = "tool") -> type[AnnotationTool]:
    """The tool of a name.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    found: type[AnnotationTool] = resolve(TOOLS, name, where)
    return found
