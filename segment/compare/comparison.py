"""A comparison: checked as a whole before it starts, then run training by training; finished ones are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch

from factory.core.checkpoints import BEST, LAST
from factory.core.config import digest
from factory.core.devices import usable_cores
from factory.core.folder import RUN, begin, check_same, is_begun, lock_folder
from manifests.dataset import Dataset
from manifests.errors import FaultError, UserError
from manifests.files import sha256_file
from segment.compare.checks import check_external, check_knowledge, check_patients
from segment.compare.config import SET_BY_GRID, CompareConfig, Training, grid
from segment.compare.records import ImageFigures, Record, collect, read_any_record, read_record, write_record
from segment.compare.report import HTML, MARKDOWN, PLOT, SCORES, SUMMARY, Setting
from segment.compare.sets import is_pattern, open_sets, path_of, patients_of_cells
from segment.compare.summary import Scores
from segment.data.mixing import Mix
from segment.data.references import refuse_tested_references
from segment.data.sources import Source, choose_scheme, open_sources
from segment.data.stains import Stains
from segment.data.weighting import read_agreement
from segment.data.whole_images import group_tiles, whole_images
from segment.evaluate.evaluate import evaluate
from segment.network.weights import load_weights
from segment.train import run as experiment
from segment.train.config import UNHASHED
from segment.train.run import Experiment, training_part

TRAININGS = "cells"
OWN_TEST = ""
_REPORTED = dict.fromkeys(("arms", "fractions", "seeds", "bootstrap", "claims", "published"), True)
_SETTINGS_OF_ARMS = {
    "synth_share": ("S*", "W*"),
    "pretraining_share": ("S>R", "W>R"),
    "paste": ("P*",),
    "weighting": ("W*", "W>R"),
}
_OWN = frozenset({RUN, TRAININGS, SCORES, MARKDOWN, HTML, PLOT, SUMMARY})


@dataclass(frozen=True)
class Comparison:
    """A comparison that is ready to start.

    Attributes:
        config: resolved, with network, scheme and crop. sources: real tiles, then synthetic ones where an arm has them
            (of the first cell, where each has its own).
        synth: folder of the synthetic tiles, or a pattern; sets: every set of it, by its folder.
        out: its folder. encoder_sha256: of the file of encoder weights, None for random ones.
        reuse: folders of other comparisons, whose trainings are reused where they are the same.
        external: real tiles of other origin, whose test splits are scored and reported separately.
        references: stains of further images for the augmentation.
    """

    config: CompareConfig
    sources: tuple[Source, ...]
    synth: Path
    sets: Mapping[Path, Source]
    out: Path
    encoder_sha256: str | None = None
    reuse: tuple[Path, ...] = ()
    external: tuple[Source, ...] = ()
    references: tuple[Stains, ...] = ()

    @property
    def trainings(self) -> list[Training]:
        """All trainings, in the order in which they run."""
        return grid(self.config)

    @property
    def last_of_seeds(self) -> set[Training]:
        """The last training of each seed, after which all arms have that seed."""
        return {
            max((t for t in self.trainings if t.seed == seed), key=self.trainings.index)
            for seed in range(self.config.seeds)
        }

    @property
    def tests(self) -> dict[str, tuple[Source, Dataset]]:
        """Test sets by name: the test split of the real tiles under `OWN_TEST`, external ones under their folders'."""
        further = {source.dataset.root.resolve().name: (source, source.split("test")) for source in self.external}
        return {OWN_TEST: (self.sources[0], self.sources[0].split("test")), **further}

    @property
    def test(self) -> Dataset:
        """The test split of the real tiles."""
        return self.tests[OWN_TEST][1]

    def real_training(self, fraction: float, seed: int) -> Dataset:
        """Real training tiles of a fraction of the patients: of the train split, with `final` also of val."""
        return _real_training(self.sources[0], self.config.final, fraction, seed)

    @property
    def document(self) -> dict[str, Any]:
        """Everything that decides a training's result: configuration, and fingerprints of data and encoder weights.

        The grid may grow, and settings of the report may change, without repeating a training.
        """
        config = self.config.model_dump(mode="json", exclude={**_REPORTED, "train": {*UNHASHED, *SET_BY_GRID}})
        data: dict[str, str] = {source.role: source.fingerprint for source in self.sources}
        if "synth" in data and is_pattern(self.synth):  # each training has its own; more of them may come
            data["synth"] = str(self.synth)
        data |= {f"test {name}": source.fingerprint for name, (source, _) in self.tests.items() if name != OWN_TEST}
        if self.references:
            data["stain references"] = digest([stains.model_dump() for stains in self.references])
        return {"config": config, "data": data, "encoder_sha256": self.encoder_sha256}

    def fingerprint(self, training: Training) -> str:
        """sha256 of what decides its result: the document without settings of other arms, and its synthetic tiles."""
        document = self.document
        document["data"].pop("synth", None)
        if training.has_synth:
            document["data"]["synth"] = self.sets[path_of(self.synth, training)].fingerprint
        for name, arms in _SETTINGS_OF_ARMS.items():
            if training.arm not in arms:
                document["config"].pop(name, None)
        if training.arm.startswith("W") and self.config.weighting.agreement:
            document["data"]["agreement"] = digest(read_agreement(self.sets[path_of(self.synth, training)]))
        if training.arm not in ("S>R", "W>R"):
            document["config"]["train"].pop("pretraining", None)
        return digest(document)


def setting(comparison: Comparison, device: str, test: str = OWN_TEST) -> Setting:
    """Data and machine of the trainings, for the report on one of the test sets."""
    real, config = comparison.sources[0], comparison.config
    parts = {fraction: comparison.real_training(fraction, 0) for fraction in config.fractions}
    synth = comparison.sources[1] if len(comparison.sources) > 1 else None
    return Setting(
        real=real.dataset.root,
        patients={fraction: len(part.table["group_id"].unique()) for fraction, part in parts.items()},
        tiles={fraction: len(part) for fraction, part in parts.items()},
        scored=comparison.tests[test][0].dataset.root,
        test=[image.name for image in group_tiles(comparison.tests[test][1])],
        synth=None if synth is None else comparison.synth if is_pattern(comparison.synth) else synth.dataset.root,
        synth_tiles=0 if synth is None else len(synth.split("train")),
        device=device,
        threads=config.train.threads or usable_cores(),
    )


def training_patients(config: CompareConfig, real: Path) -> list[tuple[float, int, str]]:
    """Fraction, seed and patient of every real training patient of a comparison; needs no synthetic tiles."""
    source = open_sources(Mix(("real",)), real, real)[0]
    check_patients((source,))
    return patients_of_cells(config.fractions, config.seeds, partial(_real_training, source, config.final))


def _real_training(real: Source, final: bool, fraction: float, seed: int) -> Dataset:
    return training_part(_with_val_in_train(real) if final else real, fraction, seed)


def _with_val_in_train(source: Source) -> Source:
    """The same rows, with split train in place of val."""
    table = source.dataset.table
    split = pc.if_else(pc.equal(pc.fill_null(table["split"], "train"), "val"), "train", table["split"])
    table = table.set_column(table.column_names.index("split"), "split", split)
    return replace(source, dataset=replace(source.dataset, table=table))


def prepare(
    config: CompareConfig,
    real: Path,
    synth: Path,
    out: Path,
    *,
    device: str = "cpu",
    reuse: Sequence[Path] = (),
    external: Sequence[Path] = (),
) -> Comparison:
    """Open and check everything; writes nothing.

    Args:
        config: with defaults not resolved. real, synth: data sets. out: the comparison's folder.
        device: decides automatic precision. reuse, external: folders, see `Comparison`.
    """
    sets = open_sets(synth, grid(config))
    sources = (*open_sources(Mix(("real",)), real, synth), *list(sets.values())[:1])
    for source in sets.values() or [sources[0]]:
        check_patients((sources[0], source))
    further = tuple(source for path in external for source in open_sources(Mix(("real",)), path, synth))
    check_external((sources[0], *sets.values()), further, _OWN)
    for source in (sources[0], *further):
        test = source.split("test")
        if not len(test):
            raise UserError(f"{source.path}: expected tiles with split test, got none. Ingest it with a test split.")
        for _ in whole_images(test):  # finds tiles that disagree before the first training
            pass
    if not config.final and not len(sources[0].split("val")):
        raise UserError(f"{real}: expected tiles with split val, got none. Ingest it with one, or use --final.")
    # One scheme, crop, network and precision for all trainings, whatever tiles their arms have.
    mix = {"mix": "real+synth" if sets else "real"}
    widest = experiment.prepare(
        config.train.model_copy(update=mix),
        real,
        next(iter(sets), synth),
        out,
        device=device,
        validation=sources[0].split("train"),
    )
    same = {name: getattr(widest.config, name) for name in ("scheme", "crop", "network", "precision")}
    config = config.model_copy(update={"train": config.train.model_copy(update=same)})
    if widest.references:
        refuse_tested_references(Path(str(config.train.augment.macenko.references)), further)
    comparison = Comparison(
        config, sources, synth, sets, out, widest.encoder_sha256, tuple(reuse), further, widest.references
    )
    _check_schemes(comparison)
    _check_fractions(comparison)
    check_knowledge(sets, synth, comparison.trainings, sources[0], comparison.real_training)
    for path in reuse:
        if not _reusable(replace(comparison, reuse=(path,))):
            raise UserError(
                f"--reuse: expected the folder of a comparison with a training that is the same here, got {path}. "
                "Those without synthetic tiles are, where real tiles, config and --also-test are. Leave it out."
            )
    for training in comparison.trainings:
        if training.seed == 0 and training.fraction in (None, config.fractions[0]):  # one of each arm is enough
            _prepare_training(comparison, training)
    check_target(comparison)
    return comparison


def _check_schemes(comparison: Comparison) -> None:
    """Refuse test tiles, and synthetic sets, that do not project onto the scheme of the trainings."""
    scheme = choose_scheme(comparison.sources, comparison.config.train.scheme)
    for source in (*comparison.external, *comparison.sets.values()):
        for own in source.dataset.schemes:
            own.projection(scheme)


def _check_fractions(comparison: Comparison) -> None:
    """Refuse two fractions with the same patients: they would be one training shown as two."""
    seen: dict[int, float] = {}
    for fraction in comparison.config.fractions:
        patients = len(comparison.real_training(fraction, 0).table["group_id"].unique())
        if patients in seen:
            raise UserError(
                f"--fractions: expected different numbers of patients, got {patients} for both {seen[patients]:g} and "
                f"{fraction:g}. Leave one out."
            )
        seen[patients] = fraction


def check_target(comparison: Comparison) -> None:
    """Refuse a folder with another comparison or with other files."""
    if is_begun(comparison.out, "a comparison", {*_OWN, *comparison.tests}.__contains__):
        check_same(comparison.out, "a comparison", comparison.document, "Use another --out.")


def run(
    comparison: Comparison,
    *,
    device: str = "cpu",
    keep_weights: bool = False,
    on_start: Callable[[int, int], None] = lambda done, total: None,
    on_step: Callable[[int], None] = lambda steps: None,
    on_training: Callable[[Record, Scores], None] = lambda record, scores: None,
) -> Scores:
    """Run missing trainings one by one; failed ones are tried again.

    Args:
        comparison: of `prepare`. device: where to compute.
        keep_weights: leave the weights of finished trainings in their folders.
        on_start: called with the steps done before, and with all steps.
        on_step: called with the steps done, of all trainings together.
        on_training: called after every training, with all scores so far.
    """
    check_target(comparison)
    folder, steps = comparison.out / TRAININGS, comparison.config.train.steps
    images = _images(comparison, OWN_TEST)
    comparison.out.mkdir(parents=True, exist_ok=True)
    with lock_folder(comparison.out):
        begin(comparison.out, comparison.document, comparison.config.model_dump(mode="json"), clear=False)
        folder.mkdir(exist_ok=True)
        for record in reused(comparison).values():
            write_record(folder, record)
        found = {
            training: read_record(folder, training, comparison.fingerprint(training))
            for training in comparison.trainings
        }
        records = {training: record for training, record in found.items() if record and record.error is None}
        on_start(len(records) * steps, len(found) * steps)
        for training in comparison.trainings:
            if training not in records:
                before = len(records) * steps
                record = _train_and_score(comparison, training, device, lambda step: on_step(before + step))  # noqa: B023
                write_record(folder, record)
                records[training] = record
                if record.error is None and not keep_weights:
                    (folder / training.name / BEST).unlink(missing_ok=True)
                on_step(len(records) * steps)
                on_training(record, collect(records.values(), images))
            if records[training].error is None:  # the state is large and no longer needed
                (folder / training.name / LAST).unlink(missing_ok=True)
    return collect(records.values(), images)


def estimate(comparison: Comparison, device: str, *, keep_weights: bool) -> tuple[int, float | None]:
    """Bytes that `run` still writes, and its seconds without validation and scoring, from the first training left."""
    folder, there = comparison.out / TRAININGS, reused(comparison)
    left = [
        training
        for training in comparison.trainings
        if training not in there and read_record(folder, training, comparison.fingerprint(training)) is None
    ]
    if not left:
        return 0, 0.0
    need, seconds = experiment.estimate(_prepare_training(comparison, left[0]), device)
    weights = need // 5 * len(left) if keep_weights else 0  # of best.safetensors; the state of one run takes the rest
    return need + weights, None if seconds is None else seconds * len(left)


def external_scores(comparison: Comparison, scores: Scores) -> dict[str, Scores]:
    """Scores of the same trainings on each external test set, by its name."""
    folder, ended = comparison.out / TRAININGS, {*scores.finished, *scores.failed}
    found = [
        read_record(folder, training, comparison.fingerprint(training))
        for training in comparison.trainings
        if training in ended
    ]
    records = [record for record in found if record is not None]
    return {name: collect(records, _images(comparison, name), name) for name in comparison.tests if name != OWN_TEST}


def _images(comparison: Comparison, test: str) -> list[tuple[str, str]]:
    """Name and patient of every image of a test set."""
    return [(image.name, image.group or image.name) for image in group_tiles(comparison.tests[test][1])]


def reused(comparison: Comparison) -> dict[Training, Record]:
    """Trainings that `run` copies from other comparisons: the same as here, and not yet in this one."""
    folder = comparison.out / TRAININGS
    return {
        training: record
        for training, record in _reusable(comparison).items()
        if read_any_record(folder, training) is None
    }


def _reusable(comparison: Comparison) -> dict[Training, Record]:
    """Finished trainings of other comparisons that are the same in this one."""
    found = {}
    for training, folder in product(comparison.trainings, comparison.reuse):
        record = read_any_record(folder / TRAININGS, training)
        if record is not None and record.error is None and record.fingerprint == comparison.fingerprint(training):
            found[training] = record
    return found


def _train_and_score(comparison: Comparison, training: Training, device: str, on_step: Callable[[int], None]) -> Record:
    """Run a training, from its checkpoint where there is one, and score it on the whole test images."""
    job = _prepare_training(comparison, training)
    try:
        experiment.run(job, device=device, resume=True, on_step=on_step)
        weights = load_weights(job.out, device)
        scores = [
            (name, score)
            for name, part in comparison.tests.items()
            for score in evaluate(weights, [part], precision=job.config.precision)
        ]
    except (FaultError, torch.OutOfMemoryError) as error:
        return Record(training, comparison.fingerprint(training), error=" ".join(str(error).split()))
    images = tuple(ImageFigures(name, score.name, score.group, score.figures) for name, score in scores)
    step, sha256 = weights.card["step"], sha256_file(weights.path)
    return Record(training, comparison.fingerprint(training), step, sha256, images=images)


def _prepare_training(comparison: Comparison, training: Training) -> Experiment:
    """The checked run of a training.

    All arms are validated on the real val split. With `final` the only validation, after the last step, is of one
    training tile and chooses nothing.
    """
    real = comparison.sources[0]
    synth = comparison.sets[path_of(comparison.synth, training)].path if training.has_synth else comparison.synth
    config, out = training.train_config(comparison.config), comparison.out / TRAININGS / training.name
    final = comparison.config.final
    validation = comparison.real_training(training.fraction or 1.0, training.seed) if final else real.split("val")
    job = experiment.prepare(config, real.path, synth, out, validation=validation)
    parts = tuple(
        comparison.real_training(training.fraction or 1.0, training.seed) if source.role == "real" else part
        for source, part in zip(job.sources, job.training, strict=True)
    )
    return replace(job, training=parts, chooses_instances=not final)
