"""How starter weights are packed; the steps before are ordinary commands (README.md beside this file).

python -m factory.starter.recipe pack runs/tissue-masks/depas-0 depas-tissue
"""

from __future__ import annotations

import sys
from pathlib import Path

from factory.core.checkpoints import BEST, read_checkpoint, write_weights
from factory.core.console import run
from factory.core.weights import read_card
from factory.trained import STARTER
from factory.trained_masks import WEIGHTS_KIND as MASKS_KIND
from factory.trained_renderers import WEIGHTS_KIND as RENDERER_KIND
from manifests.errors import UserError
from manifests.files import sha256_file

LARGEST_BYTES = 16_000_000


def pack(folder: Path, name: str, out: Path = STARTER) -> Path:
    """Write a run's weights in half precision under a starter's name.

    Args:
        folder: of the run. name: ``GENERATOR-WHAT``, e.g. ``depas-tissue``. out: folder of the file.

    Returns:
        The file.

    Raises:
        UserError: for a name of another generator, or a file above 16 MB, which is then not left behind.
    """
    path = folder / BEST
    kind = RENDERER_KIND if read_card(path).kind == RENDERER_KIND else MASKS_KIND
    best = read_checkpoint(path, kind)
    if not name.startswith(f"{best.card['generator']}-"):
        raise UserError(f"NAME: expected {best.card['generator']}-WHAT, got {name!r}.")
    half = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in best.tensors.items()}
    size = sum(tensor.nbytes for tensor in half.values())
    if size > LARGEST_BYTES:
        raise UserError(f"{folder}: expected at most {LARGEST_BYTES / 1e6:.0f} MB in float16, got {size / 1e6:.1f} MB.")
    card = {
        **best.card,
        "name": f"starter: {name}",
        "stored_as": "float16",
        "packed_from_sha256": sha256_file(path),
    }
    packed = out / f"{name}.safetensors"
    write_weights(packed, half, card)
    return packed


def main(arguments: list[str]) -> None:
    """Run the one command there is."""
    if len(arguments) != 3 or arguments[0] != "pack":
        raise UserError(f"expected: pack RUN NAME, got {' '.join(arguments) or 'nothing'}.")
    print(pack(Path(arguments[1]), arguments[2]))  # noqa: T201


if __name__ == "__main__":
    run(lambda standalone_mode: main(sys.argv[1:]))
