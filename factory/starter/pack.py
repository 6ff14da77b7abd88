"""Packs starter weights; the steps before are ordinary commands (docs/reference/starter-weights.md).

python -m factory.starter.pack pack runs/tissue-masks/depas-0 depas-tissue
python -m factory.starter.pack pack runs/ihc pix2pixhd-ihc --without-looks 5,9,10,11,19
python -m factory.starter.pack pack runs/he sharpgan-he --looks-of data/monuseg-noval
python -m factory.starter.pack pack runs/train/stylegan2 stylegan2-he
python -m factory.starter.pack pack runs/train/hdgan hdgan-he
python -m factory.starter.pack pack runs/train/exemplar exemplar-tissue --colours-of data/pdl1-cores
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from factory.bank.bank import KIND as BANK_KIND
from factory.bank.dyes import dyes_like
from factory.bank.packed import pack_bank
from factory.bank.shipped import BANK
from factory.core.checkpoints import BEST, read_checkpoint, write_weights
from factory.core.console import run
from factory.core.starters import STARTER
from factory.core.weights import read_card
from factory.joint.generators import GENERATOR
from factory.joint.labeller import KIND as LABELLER_KIND
from factory.joint.stylegan2 import WEIGHTS_KIND as GENERATOR_KIND
from factory.learn.crops import open_tiles
from factory.masks.learned.generator import WEIGHTS_KIND as MASKS_KIND
from factory.renderers.learned.image_training import measure_stain_references
from factory.renderers.learned.renderer import WEIGHTS_KIND as RENDERER_KIND
from manifests.errors import UserError
from manifests.files import sha256_file, write_atomic

LARGEST_BYTES, LARGEST_BANK_BYTES = 16_000_000, 8_000_000
MOST_NUCLEI = 8000
FREE = "CC0-1.0"

_PACKED = (MASKS_KIND, RENDERER_KIND, GENERATOR_KIND, LABELLER_KIND)


def pack(
    folder: Path, name: str, out: Path = STARTER, without_looks: Collection[int] = (), looks_of: Path | None = None
) -> Path:
    """Write a run's weights under a starter's name, in half precision, or float32 for a labeller's few weights.

    A labeller reads features of one generator, so it is trained on those of the packed one
    (``factory train hdgan --generator factory/starter/stylegan2-he.safetensors``).

    Args:
        folder: of the run. name: ``GENERATOR-WHAT``, e.g. ``depas-tissue``. out: folder of the file.
        without_looks: numbers of stain references to leave out of the card.
        looks_of: real data set that the tiles of the training were copied from (``--joint exemplar``). Stain references
            and sources on the card become those of its slides, where the run has one of every copied tile.

    Returns:
        The file.

    Raises:
        UserError: for a name of another generator, unknown stain references, slides the run did not learn from, a
            labeller whose generator is not in `out`, or more than 16 MB of weights.
    """
    path = folder / BEST
    kind = read_card(path).kind
    best = read_checkpoint(path, kind if kind in _PACKED else MASKS_KIND)
    of = best.card["labeller" if kind == LABELLER_KIND else "generator"]
    if not name.startswith(f"{of}-"):
        raise UserError(f"NAME: expected {of}-WHAT, got {name!r}.")
    if kind == LABELLER_KIND:
        _refuse_other_generator(path, best.card["generator_sha256"], out)
        packed = best.tensors
    else:
        packed = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in best.tensors.items()}
    size = sum(tensor.nbytes for tensor in packed.values())
    if size > LARGEST_BYTES:
        raise UserError(f"{folder}: expected at most {LARGEST_BYTES / 1e6:.0f} MB, got {size / 1e6:.1f} MB.")
    kept = {} if looks_of is None else _of_slides(best.card, looks_of)
    looks = kept.get("looks", best.card.get("looks", []))
    if unknown := sorted(set(without_looks) - set(range(len(looks)))):
        raise UserError(f"--without-looks: expected numbers below {len(looks)}, got {unknown[0]}.")
    if looks:
        kept["looks"] = [look for number, look in enumerate(looks) if number not in without_looks]
    card = {
        **best.card,
        **kept,
        "name": f"starter: {name}",
        "stored_as": "float32" if kind == LABELLER_KIND else "float16",
        "packed_from_sha256": sha256_file(path),
    }
    file = out / f"{name}.safetensors"
    write_weights(file, packed, card)
    return file


def pack_tissue(folder: Path, name: str, colours: Path, out: Path = STARTER) -> Path:
    """Write the bank of a run under a starter's name; see `factory.bank.packed`.

    Args:
        folder: of the run. name: ``exemplar-WHAT``. colours: data set whose colours the pages show, for the card.
            out: folder of the file.

    Raises:
        UserError: for another name, pixels that are not CC0, or more than 8 MB.
    """
    source, file = folder / BANK, out / f"{name}.safetensors"
    card = read_card(source, BANK_KIND)
    if not name.startswith("exemplar-"):
        raise UserError(f"NAME: expected exemplar-WHAT, got {name!r}.")
    if card.fields["licences"] != [FREE]:
        raise UserError(f"{folder}: expected pixels under {FREE} alone, got {', '.join(card.fields['licences'])}.")
    shown = dyes_like(colours, float(card.fields["mpp"]))
    licences = sorted({dyes.licence for dyes in shown if dyes.licence})
    described = {"name": f"starter: {name}", "colours_of": [dyes.source for dyes in shown], "colours_under": licences}
    pack_bank(source, file, most_nuclei=MOST_NUCLEI, card=described)
    if file.stat().st_size > LARGEST_BANK_BYTES:
        size = file.stat().st_size / 1e6
        file.unlink()
        raise UserError(f"{folder}: expected at most 8 MB when packed, got {size:.1f}. Collect a smaller --max-mb.")
    packed = read_card(file)
    readable = json.dumps({**packed.fields, "sha256": packed.sha256}, indent=2, sort_keys=True)
    write_atomic(file.with_suffix(".json"), readable.encode() + b"\n")
    return file


def _of_slides(card: dict[str, Any], data: Path) -> dict[str, Any]:
    """Return stain references and sources of the slides that the tiles of a training were copied from."""
    tiles = open_tiles([data], card["scheme"]["name"], (1, 1), 1, where="--looks-of")
    if unknown := sorted(set(tiles.sources) - set(card["sources"])):
        raise UserError(f"--looks-of: expected slides that the run learnt from, got {unknown[0]}. Name its data.")
    colours = measure_stain_references(tiles).colours.astype(float)
    return {"looks": np.round(colours, 4).tolist(), "sources": list(tiles.sources)}


def _refuse_other_generator(path: Path, digest: str, out: Path) -> None:
    """Refuse a labeller whose generator is not in the folder that it is packed into."""
    found = sorted(out.glob(f"{GENERATOR}-*.safetensors"))
    if digest not in {read_card(each).sha256 for each in found}:
        names = ", ".join(each.name for each in found) or "none"
        raise UserError(
            f"{path}: expected a labeller of a generator in {out}, which has {names}, got one of the weights "
            f"{digest[:12]}. Pack the generator, and train the labeller with --generator on that file."
        )


def main() -> None:
    """Run the command ``pack``."""
    parser = argparse.ArgumentParser("python -m factory.starter.pack", allow_abbrev=False)
    parser.add_argument("command", choices=["pack"])
    parser.add_argument("run", type=Path, help="folder of the training")
    parser.add_argument("name", help="GENERATOR-WHAT, e.g. depas-tissue")
    parser.add_argument("--without-looks", default="", help="numbers of stain references to leave off: 1,2")
    parser.add_argument("--looks-of", type=Path, help="real data set that the training's tiles were copied from")
    parser.add_argument("--colours-of", type=Path, help="exemplar: data set whose colours the pages show")
    asked = parser.parse_args()
    if asked.colours_of:
        print(pack_tissue(asked.run, asked.name, asked.colours_of))  # noqa: T201
        return
    left_out = {int(word) for word in asked.without_looks.split(",") if word}
    print(pack(asked.run, asked.name, without_looks=left_out, looks_of=asked.looks_of))  # noqa: T201


if __name__ == "__main__":
    run(main)
