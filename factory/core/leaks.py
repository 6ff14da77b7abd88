"""The rule for what comes from a group that is tested on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def tested_groups_among(sources: Sequence[str], tested: Iterable[str]) -> list[str]:
    """The tested groups that sources name, alone or as the beginning of a file's name (``p1`` in ``p1-a.png``).

    Args:
        sources: groups and generator sources behind something. tested: group ids (patients, slides) of a test split.

    Returns:
        Group ids, sorted.
    """
    text = "\n".join(sources)
    return sorted(group for group in tested if re.search(rf"(?<![\w.-]){re.escape(group)}(?!\w)", text))
