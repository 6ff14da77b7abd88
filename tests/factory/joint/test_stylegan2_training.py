"""StyleGAN2-ADA as a trainer: resumed is unbroken, regularisers are lazy, and what may be configured."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from factory.core.checkpoints import BEST, LAST, read_checkpoint
from factory.core.config import parse
from factory.core.shipped import configs_dir
from factory.joint.stylegan2 import WEIGHTS_KIND, StyleGan2Config, StyleGan2Trainer, build, pixels_of
from factory.learn.crops import Tiles, open_tiles
from factory.train import generator
from factory.train.generator import STATE_KIND, TrainingRun, train
from manifests.errors import UserError
from manifests.labels import get_scheme
from tests.mask_training import write_blobs

SMALL: dict[str, Any] = {
    "size": [32, 64], "batch": 3, "steps": 4, "epochs": 1, "look_every": 2, "precision": "fp32", "seed": 1,
    "network": {"z_dim": 6, "w_dim": 5, "mapping_layers": 2, "channel_base": 64, "channel_max": 6},
    "d_reg_interval": 2, "g_reg_interval": 2, "ada_interval": 2, "ada_kimg": 0.02, "augment_p": 0.4,
    "augpipe": "bgcfnc",
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread", "plain_plots")


@pytest.fixture(scope="module")
def plain_plots() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "plot_history", lambda out, history, panels: out)
        yield


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Tiles:
    data = write_blobs(tmp_path_factory.mktemp("data") / "blobs", n=4)
    return open_tiles([data.root], "tissue", (32, 64), 3)


def config_of(**changes: Any) -> StyleGan2Config:
    return parse(StyleGan2Config, {**SMALL, **changes}, "test")


def trainer_of(**changes: Any) -> StyleGan2Trainer:
    torch.manual_seed(0)
    return StyleGan2Trainer(config_of(**changes), get_scheme("tissue"), "cpu")


def run_of(out: Path, tiles: Tiles) -> TrainingRun:
    return TrainingRun("stylegan2", config_of(threads=1), tiles, out, (), ())


def state_of(out: Path) -> dict[str, bytes]:
    state = read_checkpoint(out / LAST, STATE_KIND)
    times = ("steps_per_s", "wait_share")
    history = [{k: v for k, v in row.items() if k not in times} for row in state.card["history"]]
    found = {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()}
    return {**found, "history": repr(history).encode(), "best": (out / BEST).read_bytes()}


def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(tiles: Tiles, tmp_path: Path) -> None:
    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    train(run_of(tmp_path / "whole", tiles))
    with pytest.raises(KeyboardInterrupt):
        train(run_of(tmp_path / "broken", tiles), on_step=stop)
    torch.manual_seed(123)  # whatever the process did in between
    assert train(run_of(tmp_path / "broken", tiles), resume=True).start == 2
    whole, broken = state_of(tmp_path / "whole"), state_of(tmp_path / "broken")
    assert [name for name in whole if whole[name] != broken[name]] == []

    # What is left draws images.
    best = read_checkpoint(tmp_path / "whole" / BEST, WEIGHTS_KIND)
    network = build(best.card["network"])
    network.load_state_dict(best.tensors)
    state = read_checkpoint(tmp_path / "whole" / LAST, STATE_KIND).tensors
    assert torch.equal(best.tensors["mapping.w_avg"], state["average.mapping.w_avg"])
    assert bool(best.tensors["mapping.w_avg"].any())
    with torch.no_grad():
        images = pixels_of(network.eval()(torch.zeros(2, 6), psi=0.7))
    assert (images.shape, images.dtype) == ((2, 32, 64, 3), np.uint8)


def changed(network: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(tensor, before[name]) for name, tensor in network.named_parameters())


def copied(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.named_parameters()}


def images(seed: int = 0) -> list[Any]:
    return [np.random.default_rng(seed).integers(0, 256, (3, 32, 64, 3), dtype=np.uint8)]


def test_both_networks_learn_and_the_average_follows() -> None:
    trainer = trainer_of()
    before = {name: copied(network) for name, network in trainer.networks.items()}
    trainer.step(images(), 0, 0)
    trainer.step(images(1), 1, 0)
    assert all(changed(network, before[name]) for name, network in trainer.networks.items())
    generator, average = trainer.networks["generator"], trainer.networks["average"]
    assert changed(average, copied(generator))
    assert all(not parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in trainer.networks["discriminator"].parameters())


def test_regularisers_are_taken_when_due_and_keep_their_last_value() -> None:
    trainer = trainer_of(d_reg_interval=3, g_reg_interval=2)
    said = [trainer.step(images(), step, 0) for step in range(1, 5)]
    assert float(said[0]["path_length"]) == 0
    assert float(said[1]["path_length"]) > 0
    assert torch.equal(said[2]["path_length"], said[1]["path_length"])
    assert not torch.equal(said[3]["path_length"], said[1]["path_length"])
    assert [bool(row["r1"]) for row in said] == [False, False, True, True]


def test_a_step_depends_on_its_number_and_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = trainer_of().step(images(), 5, 0)
    torch.manual_seed(2)
    trainer = trainer_of()
    torch.rand(7)
    assert trainer.step(images(), 5, 0) == first
    assert trainer_of().step(images(), 6, 0) != first
    assert trainer_of(seed=2).step(images(), 5, 0) != first


@pytest.mark.parametrize(("probability", "mixed"), [(0.0, False), (1.0, True)])
def test_styles_are_mixed_as_often_as_asked(probability: float, mixed: bool) -> None:
    trainer = trainer_of(style_mixing_prob=probability)
    ws = trainer._styles(trainer._draws(0, 0), 8)
    assert ws.shape == (8, 8, 5)
    differ = (ws != ws[:, :1]).any(2).any(1)
    assert bool(differ.all()) if mixed else not bool(differ.any())
    assert torch.equal(ws[:, 0], trainer._styles(trainer._draws(0, 0), 8)[:, 0])


def test_p_moves_with_the_discriminator_unless_it_is_fixed() -> None:
    free, fixed = trainer_of(ada_target=-1), trainer_of(ada_target=None)
    none = trainer_of(augpipe="noaug", augment_p=0)
    for trainer in (free, fixed, none):
        for step in (0, 1):
            said = trainer.step(images(), step, 0)
        trainer_p = float(said["augment_p"])
        assert trainer_p >= 0.4 if trainer is free else trainer_p == pytest.approx(0.4 if trainer is fixed else 0)


def test_the_sheet_shows_real_images_and_two_truncations() -> None:
    trainer = trainer_of()
    real, truncated, whole = trainer.sample(trainer.networks["average"], images())
    assert truncated.shape == whole.shape == real.shape
    assert not np.array_equal(truncated, whole)
    for name, noise in trainer.networks["average"].named_buffers():
        if name.endswith("noise_const"):
            noise.zero_()  # each image has noise of its own
    assert np.array_equal(trainer.sample(trainer.networks["average"], images())[1], truncated)


def test_bfloat16_trains_too() -> None:
    said = trainer_of(precision="bf16").step(images(), 0, 0)
    assert all(bool(value.isfinite()) for value in said.values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ema": 0.9}, "ema: expected 0, as ema_kimg"),
        ({"augpipe": "bcg"}, "augpipe: expected noaug or one of blit, "),
        ({"augpipe": "noaug"}, "augment_p: expected 0 with noaug"),
        ({"network": {"width": 3}}, "network.width: expected a known key"),
        ({"r1_gama": 3}, "Did you mean r1_gamma?"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        config_of(**changes)
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["stylegan2", "stylegan2_light"])
def test_presets_resolve(name: str) -> None:
    values = yaml.safe_load((configs_dir() / "train" / f"{name}.yaml").read_text())
    config = parse(StyleGan2Config, values, name)
    assert (config.beta1, config.beta2, config.augpipe, config.ada_target) == (0, 0.99, "bgc", 0.6)
    assert (config.d_reg_interval, config.g_reg_interval, config.pl_weight) == (16, 4, 2)
    if name == "stylegan2":
        assert (config.network.channel_base, config.network.channel_max) == (32768, 512)
        assert config.gamma == pytest.approx(0.0002 * 512**2 / 8)
