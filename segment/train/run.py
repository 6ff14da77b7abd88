"""A training run of a segmenter, from data sets to a run folder. Everything is checked before anything is written."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from factory.core.checkpoints import read_checkpoint
from factory.core.config import digest
from factory.core.devices import usable_cores
from factory.core.fit import FitResult, Row, bytes_of_run, fit
from factory.core.fit import estimate as fit_estimate
from factory.core.precision import resolve_precision
from factory.core.training_folder import TrainingFolder
from manifests.dataset import Dataset
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.labels import LabelScheme
from segment.data.mixing import Shares
from segment.data.references import macenko_references, refuse_ihc, training_reference
from segment.data.sampling import Draw, MixingSampler, draw_generator
from segment.data.sources import Source, check_leaks, choose_scheme, open_sources
from segment.data.stains import Stains
from segment.data.tiles import Tiles
from segment.data.weighting import check_weighting, read_agreement, tile_weights
from segment.network.head import Head, head_for
from segment.network.inference import InferenceConfig
from segment.network.networks import DIVISOR, build, check_fit, encoder_file, load_encoder_weights
from segment.network.weights import WEIGHTS_KIND, write_weights
from segment.train.config import UNHASHED, TrainConfig
from segment.train.history import plot_history
from segment.train.panels import PANELS, write_panel
from segment.train.scalars import TENSORBOARD, Scalars
from segment.train.task import SegmenterTask
from segment.train.validation import Validation

_PANEL_TILES = 4
_LARGEST_CROP = 256


@dataclass(frozen=True)
class Experiment:
    """A training run that is ready to start.

    Attributes:
        config: resolved, with crop, encoder, scheme and precision filled in. sources: the data sets.
        scheme: of the network. head: meaning of its output channels. training: per source, the tiles to learn from.
        shares: of synthetic tiles over the steps. validation: tiles that choose the best weights.
        out: the run's folder. notes: to print, one line each.
        encoder_sha256: of the file with encoder weights; None for random ones.
        chooses_instances: whether the validation tiles also choose how nuclei are read off the output.
        references: stains of further images for the augmentation.
    """

    config: TrainConfig
    sources: tuple[Source, ...]
    scheme: LabelScheme
    head: Head
    training: tuple[Dataset, ...]
    shares: Shares
    validation: Dataset
    out: Path
    notes: tuple[str, ...]
    encoder_sha256: str | None = None
    chooses_instances: bool = True
    references: tuple[Stains, ...] = ()

    @property
    def synth_share(self) -> float:
        """Share of synthetic tiles among all that are drawn."""
        crops = self.config.steps * self.config.batch
        return self.shares.drawn(crops) / crops

    @property
    def folder(self) -> TrainingFolder:
        """The run's folder, identified by configuration (without `UNHASHED`), data and encoder weights."""
        config = self.config.model_dump(mode="json", exclude=set(UNHASHED))
        data = {source.role: source.fingerprint for source in self.sources}
        document = {"config": config, "data": data, "encoder_sha256": self.encoder_sha256}
        if self.references:
            document["stain_references"] = digest([stains.model_dump() for stains in self.references])
        if self.config.weighting.agreement:
            document["agreement"] = digest(read_agreement(self.sources[-1]))
        names = (PANELS, TENSORBOARD, "evaluation-*")
        return TrainingFolder(self.out, document, self.config.model_dump(mode="json"), names)


def prepare(
    config: TrainConfig,
    real: Path,
    synth: Path,
    out: Path | None = None,
    *,
    device: str = "cpu",
    validation: Dataset | None = None,
) -> Experiment:
    """Open and check everything; writes nothing.

    Args:
        config: what to train. real, synth: data sets; only those of the mix are opened.
        out: the run's folder; None takes ``runs/segment/NET-MIX``. device: that automatic precision is for.
        validation: tiles that choose the weights; None takes the val split.
    """
    mix, network = config.parsed_mix, config.network.resolved()
    sources = open_sources(mix, real, synth)
    scheme = choose_scheme(sources, config.scheme)
    check_leaks(sources)
    for source in sources:
        if not len(source.split("train")):
            raise UserError(f"{source.dataset.root}: expected tiles with split train, got none.")
    synth_source = next((source for source in sources if source.role == "synth"), None)
    check_weighting(config.weighting, mix.roles, synth_source)
    training = tuple(training_part(source, config.real_fraction, config.seed) for source in sources)
    notes: list[str] = []
    if validation is None:
        validation, notes = _choose_validation(sources)
    crop = _choose_crop(config.crop, sources)
    if config.batch * (crop[0] // DIVISOR) * (crop[1] // DIVISOR) < 2:
        raise UserError("--batch: expected 2 or more with a crop of 32x32, got 1. Batch norm needs two values.")
    pixels = [_pixels(part) for part in training]
    shares = mix.shares(pixels[-1] / sum(pixels), config.steps, config.batch)
    head, without_ids = _choose_head(scheme, (*training, validation))
    check_fit(network, head.channels, crop, config.encoder_weights)
    encoder = sha256_file(encoder_file(network, config.encoder_weights)) if config.encoder_weights else None
    if config.inference.stain_reference is not None:
        refuse_ihc(scheme, "inference.stain_reference")
    precision = resolve_precision(config.precision, device)
    resolved = {"network": network, "crop": crop, "scheme": scheme.name, "precision": precision}
    config = config.model_copy(update=resolved)
    out = out or Path("runs/segment") / f"{network.name}-{config.mix.replace(':', '-')}"
    return Experiment(
        config,
        tuple(sources),
        scheme,
        head,
        training,
        shares,
        validation,
        out,
        (*notes, *without_ids, *_warn(sources)),
        encoder,
        references=macenko_references(config.augment.macenko, scheme, sources),
    )


def _choose_head(scheme: LabelScheme, parts: Sequence[Dataset]) -> tuple[Head, list[str]]:
    """Return the head of a scheme, and notes; without distance if tiles have classes of nuclei but no instance ids."""
    head = head_for(scheme)
    without = {str(part.root) for part in parts if not pc.sum(part.table["cells"]).as_py()}
    if not head.distance or not without:
        return head, []
    folders = ", ".join(sorted(without))
    return Head(head.classes), [
        f"{folders}: no instance ids, so the network learns classes alone and touching nuclei are not separated"
    ]


def training_part(source: Source, fraction: float, seed: int) -> Dataset:
    """Return the training tiles of a source; of a real one those of a share of its groups (patients), at least one.

    The groups have one random order per seed, so that a smaller share is a subset of a larger one. A tile without a
    group counts as a group.
    """
    part = source.split("train")
    if source.role != "real" or fraction == 1:
        return part
    columns = (part.table[name].to_pylist() for name in ("group_id", "sample_id"))
    owners = [group if group is not None else sample for group, sample in zip(*columns, strict=True)]
    groups = sorted(set(owners))
    kept = max(int(np.floor(fraction * len(groups) + 0.5)), 1)
    chosen = {groups[place] for place in draw_generator(seed, Draw.SUBSET).permutation(len(groups))[:kept]}
    return part.where(pa.array([owner in chosen for owner in owners]))


def run(
    experiment: Experiment,
    *,
    device: str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    on_start: Callable[[int, int], None] = lambda step, steps: None,
    on_step: Callable[[int], None] = lambda step: None,
    on_validation: Callable[[dict[str, Any]], None] = lambda row: None,
) -> FitResult:
    """Train, and write weights, card, state, history and plot into the run folder.

    Args:
        experiment: as `prepare` returns it. device: where to train.
        resume: continue from the folder's state if there is one. overwrite: replace another run.
        on_start, on_step: see `fit`. on_validation: called with each row of the history.
    """
    config, out, folder = experiment.config, experiment.out, experiment.folder
    folder.check(resume=resume, overwrite=overwrite)
    torch.set_num_threads(config.threads or usable_cores())
    network = _network(experiment, device, has_state=resume and folder.state.exists())
    inference = _inference(experiment)
    validation = Validation(
        experiment.validation,
        experiment.scheme,
        experiment.head,
        config.validate_tiles,
        config.instances,
        device,
        config.precision,
        inference,
    )
    folder.check_room(bytes_of_run({"network": network}, "network", config.ema))
    with folder.open(resume=resume), contextlib.closing(Scalars(out)) as scalars:

        def validate(network: torch.nn.Module, step: int) -> dict[str, float]:
            figures, shown = validation.score(network, _PANEL_TILES)
            write_panel(out, step, shown, experiment.scheme)
            return figures

        def watch(row: Row) -> None:
            scalars.add(row)
            on_validation(row)

        draw, card = _sampler(experiment).draw, _card(experiment, inference)
        task = SegmenterTask(network, experiment.head, config, draw, validate, out, card, device)
        result = fit(task, folder, device=device, resume=resume, on_start=on_start, on_step=on_step, on_row=watch)
        if experiment.head.distance and experiment.chooses_instances:
            _choose_instances(folder.weights, network, validation)
        scalars.complete(result.history)
        plot_history(out, result.history)
    return result


def estimate(experiment: Experiment, device: str) -> tuple[int, float | None]:
    """Bytes that a training writes, and its seconds without validation; see `factory.core.fit.estimate`."""
    config, crop = experiment.config, experiment.config.crop
    assert crop is not None
    torch.set_num_threads(config.threads or usable_cores())
    network = _network(experiment, device, has_state=False)
    with tempfile.TemporaryDirectory() as folder:  # for decoded tiles
        draw = _sampler(replace(experiment, out=Path(folder))).draw
        card = _card(experiment, _inference(experiment))
        task = SegmenterTask(network, experiment.head, config, draw, lambda *_: {}, Path(folder), card, device)
        return fit_estimate(task, config.batch * crop[0] * crop[1], device)


def _network(experiment: Experiment, device: str, *, has_state: bool) -> torch.nn.Module:
    """The network before its first step; without the encoder's weights where a state will be read."""
    config = experiment.config
    torch.manual_seed(config.seed)
    network = build(config.network, experiment.head.channels)
    if config.encoder_weights and not has_state:
        load_encoder_weights(network, config.network, config.encoder_weights)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _choose_instances(path: Path, network: torch.nn.Module, validation: Validation) -> None:
    """Choose on the validation tiles how nuclei are read off the best weights, once, and write it into their card."""
    best = read_checkpoint(path, WEIGHTS_KIND)
    if best.card["instances_chosen"] is not None:
        write_weights(path, best.tensors, best.card)  # the same bytes: a killed run can have left an old best.json
        return
    network.load_state_dict(best.tensors)
    chosen, score = validation.choose_instances(network)
    found = {"tiles": min(validation.tiles, len(validation.dataset)), "mean_of_aji_and_pq": score}
    write_weights(path, best.tensors, {**best.card, "instances": chosen.model_dump(), "instances_chosen": found})


def _choose_validation(sources: Sequence[Source]) -> tuple[Dataset, list[str]]:
    """Return the val split of the real tiles, or of the synthetic ones with a note if there are no real ones."""
    for source in sources:
        validation = source.split("val")
        if len(validation):
            note = "no real validation tiles: the best weights are chosen on synthetic ones"
            return validation, [] if source.role == "real" else [note]
    folders = ", ".join(str(source.dataset.root) for source in sources)
    raise UserError(f"{folders}: expected tiles with split val, got none. Make the data set again with a val split.")


def _choose_crop(crop: tuple[int, int] | None, sources: Sequence[Source]) -> tuple[int, int]:
    """Return the configured crop, or the largest up to 256 pixels that fits every tile."""
    layouts = [source.dataset.store.layout for source in sources]
    height, width = min(layout.height for layout in layouts), min(layout.width for layout in layouts)
    if min(height, width) < DIVISOR:
        raise UserError(f"data: expected tiles of at least {DIVISOR}x{DIVISOR} pixels, got {height}x{width}.")
    largest = (height // DIVISOR * DIVISOR, width // DIVISOR * DIVISOR)
    if crop is None:
        return min(largest[0], _LARGEST_CROP), min(largest[1], _LARGEST_CROP)
    if crop[0] > height or crop[1] > width:
        raise UserError(
            f"--crop: expected at most {height}x{width}, the smallest tile, got {crop[0]}x{crop[1]}. "
            f"Use {largest[0]}x{largest[1]} or less."
        )
    return crop


def _pixels(dataset: Dataset) -> int:
    return len(dataset) * dataset.store.layout.height * dataset.store.layout.width


def _warn(sources: Sequence[Source]) -> list[str]:
    notes = []
    mpps = {source.role: sorted(set(source.dataset.table["mpp"].to_pylist())) for source in sources}
    if len({tuple(values) for values in mpps.values()}) > 1:
        by_source = "; ".join(f"{role} {', '.join(f'{mpp:g}' for mpp in values)}" for role, values in mpps.items())
        notes.append(f"sources differ in um/px ({by_source}): nuclei differ in size, nothing is resampled")
    for source in sources:
        nameless = source.dataset.table["group_id"].null_count
        if source.role == "real" and nameless:
            notes.append(
                f"{source.dataset.root}: {nameless} tiles have no group_id, so leaks cannot be ruled out for them"
            )
    return notes


def _sampler(experiment: Experiment) -> MixingSampler:
    config = experiment.config
    budget = int(config.cache_gb * 1e9 / len(experiment.training))
    tiles = tuple(
        Tiles(
            rows,
            experiment.scheme,
            experiment.out,
            budget,
            distances=experiment.head.distance,
            instances=config.augment.paste.probability > 0,
        )
        for rows in experiment.training
    )
    if config.weighting.is_on:
        agreement = read_agreement(experiment.sources[-1]) if config.weighting.agreement else None
        real = tiles[0] if len(tiles) > 1 else None
        tiles[-1].weights = tile_weights(config.weighting, real, tiles[-1], agreement)
    assert config.crop is not None
    shares = experiment.shares if len(tiles) > 1 else Shares.constant(0.0)
    return MixingSampler(
        tiles,
        shares,
        config.batch,
        config.seed,
        config.crop,
        config.augment,
        config.sampling.class_balance,
        experiment.references,
    )


def _inference(experiment: Experiment) -> InferenceConfig:
    """How the weights will be applied: with the stains of the training tiles in numbers where they are asked for."""
    config = experiment.config.inference
    if config.stain_reference != "training":
        return config
    reference = training_reference(experiment.training[0], experiment.scheme)
    return config.model_copy(update={"stain_reference": reference})


def _card(experiment: Experiment, inference: InferenceConfig) -> dict[str, Any]:
    """Return the fields of the weights' card besides step and scores."""
    infos = {source.role: source.dataset.info for source in experiment.sources}
    seen = [part for part in (*experiment.training, experiment.validation) if not part.info.is_synthetic]
    groups = {group for part in seen for group in part.table["group_id"].unique().to_pylist() if group is not None}
    licences = {licence for info in infos.values() for licence in info.licences}
    return {
        "network": experiment.config.network.model_dump(mode="json"),
        "encoder_weights": experiment.config.encoder_weights,
        "encoder_sha256": experiment.encoder_sha256,
        "scheme": experiment.scheme.to_dict(),
        "mpp": sorted({mpp for source in experiment.sources for mpp in source.dataset.table["mpp"].to_pylist()}),
        "head": asdict(experiment.head),
        "instances": experiment.config.instances.model_dump(mode="json"),
        "instances_chosen": None,
        "inference": inference.model_dump(mode="json"),
        "mix": experiment.config.mix,
        "synth_share": experiment.synth_share,
        "weighting": experiment.config.weighting.model_dump(),
        "pretraining": experiment.config.pretraining.model_dump(),
        "groups": sorted(groups),
        "sources": {role: list(info.training_sources) for role, info in infos.items()},
        "licences": sorted(licences),
        "trained_on": {
            source.role: {"tiles": len(part), "sha256": source.sha256}
            for source, part in zip(experiment.sources, experiment.training, strict=True)
        },
        "fingerprint": experiment.folder.fingerprint,
        "use": "research use; not for diagnosis",
    }
