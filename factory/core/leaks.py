"""The rule for what comes from a group that is tested on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MASKS_OF = "masks of "
"""Begins a source whose masks, and not images, are behind a data set: ``masks of monuseg/TCGA-18-5592``."""


def tested_groups_among(sources: Sequence[str], tested: Iterable[str]) -> list[str]:
    """The tested groups that sources name, alone or as the beginning of a file's name (``p1`` in ``p1-a.png``).

    Args:
        sources: groups and generator sources behind something. tested: group ids (patients, slides) of a test split.

    Returns:
        Group ids, sorted.
    """
    text = "\n".join(sources)
    return sorted(group for group in tested if re.search(rf"(?<![\w.-]){re.escape(group)}(?!\w)", text))


def seen_in_images(sources: Sequence[str], tested: Iterable[str]) -> list[str]:
    """The tested groups whose images, and not masks alone, are behind something; as `tested_groups_among`."""
    return tested_groups_among([source for source in sources if not source.startswith(MASKS_OF)], tested)
