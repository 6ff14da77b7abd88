"""Leak guard: detects groups of a test split among the sources of generated images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MASKS_OF = "masks of "
"""Prefix of a source whose masks alone were used: ``masks of monuseg/TCGA-18-5592``."""


def tested_groups_among(sources: Sequence[str], tested: Iterable[str]) -> list[str]:
    """Tested groups among sources, by name or as the beginning of a file's name (``p1`` in ``p1-a.png``).

    Args:
        sources: groups and generator sources of a data set. tested: group ids (patients, slides) of a test split.

    Returns:
        Group ids, sorted.
    """
    text = "\n".join(sources)
    return sorted(group for group in tested if re.search(rf"(?<![\w.-]){re.escape(group)}(?!\w)", text))


def seen_in_images(sources: Sequence[str], tested: Iterable[str]) -> list[str]:
    """Tested groups among the sources of images, without those of masks alone; as `tested_groups_among`."""
    return tested_groups_among([source for source in sources if not source.startswith(MASKS_OF)], tested)
