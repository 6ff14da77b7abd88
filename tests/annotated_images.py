"""A tiny generator with random weights, and images of it that a threshold annotated: what a labeller is trained on."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from factory.core.checkpoints import write_weights
from factory.core.runs import RunSpec, open_run, write_shard
from factory.core.seeds import row_seed
from factory.core.weights import BEST, read_card
from factory.joint import DRAWING
from factory.joint.generators import DrawConfig, draw_latents, noise_of, open_generator
from factory.joint.stylegan2 import WEIGHTS_KIND, build
from manifests import Dataset, DatasetInfo, Tile, get_scheme, open_dataset
from manifests.store import Layout

SIZE = (32, 64)
NETWORK: dict[str, Any] = {
    "z_dim": 6, "w_dim": 8, "mapping_layers": 2, "channel_base": 512, "channel_max": 8, "size": list(SIZE),
}  # fmt: skip
SCHEME = get_scheme("pdl1")
PSI = 0.9


def write_generator(folder: Path, seed: int = 0) -> Path:
    """A run's folder with a generator of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build(NETWORK)
    card = {
        "kind": WEIGHTS_KIND, "generator": "stylegan2", "network": NETWORK, "scheme": SCHEME.to_dict(), "mpp": 0.5,
        "sources": ["slides/s1"], "licences": ["test"],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / BEST, network.state_dict(), card)
    return folder


def write_annotated(
    out: Path, weights: Path, n: int = 6, *, empty: int = 0, drawing: DrawConfig | None = None, **columns: Any
) -> Dataset:
    """Images of a generator with classes by their grey level; the last third is of split test, the last `empty` blank.

    Args:
        out: the data set. weights: of the generator. n: images. drawing: how. columns: values that replace those of
        every row.
    """
    how = drawing or DrawConfig(weights=str(weights), psi=PSI)
    generator, digest = open_generator(weights), read_card(weights / BEST).sha256
    seeds = [row_seed(5, index) for index in range(n)]
    latents = draw_latents(seeds, NETWORK["z_dim"])
    images = generator.draw(latents, noise_of(seeds, how), how.psi)
    greys = images.astype(np.float64).mean(3)
    edges = np.quantile(greys, (0.2, 0.4, 0.6, 0.8))
    config = {DRAWING: how.model_copy(update={"weights_sha256": digest}).model_dump(mode="json"), "n": n}
    spec = RunSpec(out, config, Layout(n, *SIZE, 4), DatasetInfo(True, "tests", (SCHEME,), licences=("test",)))

    def sample(index: int) -> tuple[np.ndarray, Tile, dict[str, object]]:
        semantic = np.digitize(greys[index], edges).astype(np.uint8)
        semantic[:2] = 255
        if index >= n - empty:
            semantic[:] = 255
        row = {
            "sample_id": f"t-{index}", "split": "train" if index < n - n // 3 else "test", "source": "synthetic",
            "group_id": f"t-{index}", "height": SIZE[0], "width": SIZE[1], "mpp": 0.5, "label_scheme": SCHEME.name,
            "seed": seeds[index], "label_origin": "annotated", "latent": latents[index].tolist(),
            "image_weights_sha256": digest, **columns,
        }  # fmt: skip
        return images[index], Tile(semantic, np.zeros(SIZE, np.int32), 0.5, SCHEME), row

    with open_run(spec) as run:
        for number in run.todo:
            run.add(write_shard(spec, number, (sample(index) for index in spec.layout.rows(number))))
        run.finish()
    return open_dataset(out)
