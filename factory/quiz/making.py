"""Make a quiz: what `factory quiz` writes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.core.console import progress
from factory.core.folder import is_begun
from factory.inspect.report import check_out
from factory.quiz.choice import Choice, choose, generator
from factory.quiz.key import Key, KeyTile
from factory.quiz.page import Pictures, encode, render_page
from factory.quiz.report import JSON, MARKDOWN
from factory.quiz.sources import Inputs, Source, open_inputs
from manifests.checksums import SUMS
from manifests.errors import UserError
from manifests.files import sha256_file, write_atomic
from manifests.schema import DISCLAIMER

PAGE, KEY = "quiz.html", "key.json"
DEFAULT_OUT = Path("runs/quiz")
_ANSWERS = "answers"


@dataclass(frozen=True)
class Quiz:
    """What was written.

    Attributes:
        page: the page. key: beside it. tiles: number of tiles from every data set, by (truth, name).
        shape: height and width shown. encoding: of the pictures. page_bytes: size of the page.
        licences: of the real tiles. notes: on the choice of tiles.
    """

    page: Path
    key: Path
    tiles: dict[tuple[str, str], int]
    shape: tuple[int, int]
    encoding: str
    page_bytes: int
    licences: tuple[str, ...]
    notes: tuple[str, ...]


def make_quiz(
    synthetic: Sequence[Path],
    real: Sequence[Path],
    out: Path = DEFAULT_OUT,
    *,
    n: int = 40,
    size: tuple[int, int] | None = None,
    split: str = "test",
    seed: int = 0,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Quiz:
    """Write the page and the key of a quiz; the same inputs and seed give the same bytes.

    Args:
        synthetic, real: folders of finished data sets. out: folder to write to.
        n: tiles, half of either kind. size: height and width shown. split: of the real tiles, or ``all``.
        seed: which tiles, which part of them, and in what order. overwrite: replace an earlier quiz.
        dry_run: write nothing.

    Raises:
        UserError: for data sets that give no blind test, see `open_inputs`, or an `out` that holds something else.
    """
    _check_free(out, overwrite=overwrite)
    inputs = open_inputs(synthetic, real, n=n, size=size, split=split)
    with progress("tiles", n) as bar:
        choice = choose(inputs, n, seed, bar.advance)
    with progress("pictures", n) as bar:
        pictures = encode(choice.crops, bar.advance)
    licences = _licences(choice, inputs)
    key = _key(choice, pictures, {**_made_of(inputs, split, seed), "encoding": pictures.encoding, "licences": licences})
    page = render_page(key, pictures, inputs.shape, inputs.mpp, licences).encode()
    if not dry_run:
        out.mkdir(parents=True, exist_ok=True)
        for name in (PAGE, MARKDOWN, JSON):  # a page without its key, or scores of another quiz, would mislead
            (out / name).unlink(missing_ok=True)
        write_atomic(out / KEY, key.to_json())
        write_atomic(out / PAGE, page)
    counts = Counter((crop.truth, crop.dataset) for crop in choice.crops)
    return Quiz(
        page=out / PAGE,
        key=out / KEY,
        tiles={(source.truth, source.name): counts[source.truth, source.name] for source in inputs.all},
        shape=inputs.shape,
        encoding=pictures.encoding,
        page_bytes=len(page),
        licences=licences,
        notes=choice.notes,
    )


def _check_free(out: Path, *, overwrite: bool) -> None:
    check_out(out)
    is_begun(out, "a quiz", lambda name: name in (PAGE, KEY, MARKDOWN, JSON) or name.startswith(_ANSWERS))
    if not overwrite and ((out / PAGE).exists() or (out / KEY).exists()):
        raise UserError(
            f"{out}: expected a folder without a quiz, got one in it. Use another --out, or --overwrite: answers to "
            "the quiz there can then no longer be scored."
        )


def _key(choice: Choice, pictures: Pictures, made_of: dict[str, Any]) -> Key:
    rng = generator(made_of["seed"], "salts")
    tiles = [
        KeyTile(
            truth=crop.truth,
            salt=rng.bytes(16).hex(),
            image_sha256=hashlib.sha256(picture).hexdigest(),
            dataset=crop.dataset,
            made_by=crop.made_by,
            sample_id=crop.sample_id,
            group_id=crop.group_id,
            top=crop.top,
            left=crop.left,
            tps=crop.tps,
        )
        for crop, picture in zip(choice.crops, pictures.files, strict=True)
    ]
    return Key(tuple(tiles), made_of)


def _made_of(inputs: Inputs, split: str, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "height": inputs.shape[0],
        "width": inputs.shape[1],
        "mpp": inputs.mpp,
        "split": split,
        "datasets": [_description(source) for source in inputs.all],
    }


def _description(source: Source) -> dict[str, Any]:
    info = source.dataset.info
    return {
        "name": source.name,
        "truth": source.truth,
        "generator": info.generator,
        "training_sources": list(info.training_sources),
        "licences": list(info.licences),
        "sha256sums_sha256": sha256_file(source.dataset.root / SUMS),
        **({"use": DISCLAIMER} if info.is_synthetic else {}),
    }


def _licences(choice: Choice, inputs: Inputs) -> tuple[str, ...]:
    """Licences of the real tiles shown: of their rows, else of their data sets."""
    of_rows = {crop.licence for crop in choice.crops if crop.truth == "real" and crop.licence}
    of_sets = {licence for source in inputs.real for licence in source.dataset.info.licences}
    return tuple(sorted(of_rows or of_sets))
