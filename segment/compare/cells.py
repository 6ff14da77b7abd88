"""Run a comparison, training by training: check all of it first, skip what is finished, keep what failed in sight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch

from factory.core.checkpoints import BEST, LAST
from factory.core.config import digest
from factory.core.folder import begin, check_same, is_begun
from factory.core.runs import RUN, lock_folder
from manifests.dataset import Dataset
from manifests.errors import FaultError, UserError
from manifests.files import sha256_file
from segment.compare.config import SET_BY_GRID, Cell, CompareConfig, grid
from segment.compare.records import ImageFigures, Record, collect, read_any_record, read_record, write_record
from segment.compare.report import HTML, MARKDOWN, PLOT, SCORES, SUMMARY, Setting
from segment.compare.summary import Scores
from segment.data.sources import Mix, Source, check_leaks, choose_scheme, open_sources
from segment.data.whole_images import whole_images, whole_parts
from segment.evaluate.evaluate import evaluate
from segment.network.weights import load_weights
from segment.train import run as experiment
from segment.train.loop import UNHASHED
from segment.train.run import Experiment, training_part

CELLS = "cells"
OWN_TEST = ""
_REPORTED = dict.fromkeys(("arms", "fractions", "seeds", "bootstrap", "claims", "published"), True)
_OWN = frozenset({RUN, CELLS, SCORES, MARKDOWN, HTML, PLOT, SUMMARY})


@dataclass(frozen=True)
class Comparison:
    """A comparison that is ready to start.

    Attributes:
        config: resolved: network, scheme and crop spelt out. sources: real tiles, then synthetic where an arm has them.
        out: its folder. encoder_sha256: of the file of encoder weights, None for random ones.
        reuse: folder of another comparison, whose trainings are taken over where they are the same.
        elsewhere: real tiles of other origin, whose test splits are scored too and reported by themselves.
    """

    config: CompareConfig
    sources: tuple[Source, ...]
    out: Path
    encoder_sha256: str | None = None
    reuse: Path | None = None
    elsewhere: tuple[Source, ...] = ()

    @property
    def cells(self) -> list[Cell]:
        """All trainings, in the order in which they run."""
        return grid(self.config)

    @property
    def last_of_seeds(self) -> set[Cell]:
        """The cells after which all arms have a further seed."""
        return {
            max((c for c in self.cells if c.seed == seed), key=self.cells.index) for seed in range(self.config.seeds)
        }

    @property
    def tests(self) -> dict[str, tuple[Source, Dataset]]:
        """What is scored: the test split of the real tiles under no name, and further ones under their folders'."""
        further = {source.dataset.root.resolve().name: (source, source.split("test")) for source in self.elsewhere}
        return {OWN_TEST: (self.sources[0], self.sources[0].split("test")), **further}

    @property
    def test(self) -> Dataset:
        """The real tiles that are scored, those of elsewhere left out."""
        return self.tests[OWN_TEST][1]

    def real_training(self, fraction: float, seed: int) -> Dataset:
        """The real tiles that a fraction of the patients gives: of the train split, and where `final` of val too."""
        real = self.sources[0]
        return training_part(_with_val_in_train(real) if self.config.final else real, fraction, seed)

    @property
    def document(self) -> dict[str, Any]:
        """What decides a training's result: its configuration, data sets and encoder weights by fingerprint.

        The grid may grow, and what the report alone depends on may change, without a training being made again.
        """
        config = self.config.model_dump(mode="json", exclude={**_REPORTED, "train": {*UNHASHED, *SET_BY_GRID}})
        data: dict[str, str] = {source.role: source.fingerprint for source in self.sources}
        data |= {f"test {name}": source.fingerprint for name, (source, _) in self.tests.items() if name != OWN_TEST}
        return {"config": config, "data": data, "encoder_sha256": self.encoder_sha256}

    def fingerprint(self, cell: Cell) -> str:
        """sha256 of what decides a training's result: of the document, without synthetic tiles where none are used."""
        document = self.document
        if not cell.has_synth:
            document["config"].pop("synth_share")
            document["data"].pop("synth", None)
        return digest(document)


def setting(comparison: Comparison, device: str, test: str = OWN_TEST) -> Setting:
    """What the report says of the data and the machine; one for each of the test sets."""
    real, config = comparison.sources[0], comparison.config
    parts = {fraction: comparison.real_training(fraction, 0) for fraction in config.fractions}
    synth = comparison.sources[1] if len(comparison.sources) > 1 else None
    return Setting(
        real=real.dataset.root,
        patients={fraction: len(part.table["group_id"].unique()) for fraction, part in parts.items()},
        tiles={fraction: len(part) for fraction, part in parts.items()},
        scored=comparison.tests[test][0].dataset.root,
        test=[whole.name for whole in whole_parts(comparison.tests[test][1])],
        synth=None if synth is None else synth.dataset.root,
        synth_tiles=0 if synth is None else len(synth.split("train")),
        device=device,
        threads=config.train.threads or experiment.usable_cores(),
    )


def _with_val_in_train(source: Source) -> Source:
    """The same rows, those of split val as train."""
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
    reuse: Path | None = None,
    elsewhere: Sequence[Path] = (),
) -> Comparison:
    """Open and check everything; writes nothing.

    Args:
        config: as asked for. real, synth: data sets. out: the comparison's folder.
        device: that automatic precision is for. reuse: folder of another comparison, see `Comparison`.
        elsewhere: data sets of further test tiles.

    Raises:
        UserError: for whatever is wrong with the request or the data: above all, a patient on both sides.
    """
    has_synth = any(cell.has_synth for cell in grid(config))
    sources = tuple(open_sources(Mix(("real", "synth") if has_synth else ("real",)), real, synth))
    _check_patients(sources)
    further = tuple(source for path in elsewhere for source in open_sources(Mix(("real",)), path, synth))
    _check_elsewhere(sources, further)
    for source in (sources[0], *further):
        test = source.split("test")
        if not len(test):
            raise UserError(f"{source.path}: expected tiles with split test, got none. Ingest it with a test split.")
        for _ in whole_images(test):  # tiles that disagree are found now and not after the first training
            pass
    if not config.final and not len(sources[0].split("val")):
        raise UserError(f"{real}: expected tiles with split val, got none. Ingest it with one, or use --final.")
    # One scheme, crop, network and precision for all trainings, whatever tiles the arm of each has.
    mix = {"mix": "real+synth" if has_synth else "real"}
    widest = experiment.prepare(
        config.train.model_copy(update=mix), real, synth, out, device=device, validation=sources[0].split("train")
    )
    same = {name: getattr(widest.config, name) for name in ("scheme", "crop", "network", "precision")}
    config = config.model_copy(update={"train": config.train.model_copy(update=same)})
    comparison = Comparison(config, sources, out, widest.encoder_sha256, reuse, further)
    _check_schemes(comparison)
    _check_fractions(comparison)
    if reuse is not None and not _same_in_reuse(comparison):
        raise UserError(
            f"--reuse: expected the folder of a comparison with a training that is the same here, got {reuse}. "
            "Those without synthetic tiles are, where real tiles, config and --also-test are. Leave --reuse out."
        )
    for cell in comparison.cells:
        if cell.seed == 0 and cell.fraction in (None, config.fractions[0]):  # one of each arm shows what is wrong
            _prepare_cell(comparison, cell)
    check_target(comparison)
    return comparison


def _check_patients(sources: tuple[Source, ...]) -> None:
    """Refuse a comparison in which a patient could be trained on, or chosen by, and tested (promise 13)."""
    own, real = sources[0], sources[0].dataset.root
    if own.dataset.table["group_id"].null_count:
        raise UserError(
            f"{real}: expected a patient or slide (group_id) for every tile, got rows without. Ingest it again."
        )
    check_leaks(sources)
    shared = sorted(own.groups("val") & own.groups("test"))
    if shared:
        raise UserError(
            f"{real}: expected every group in one split, got {shared[0]!r} in val and test ({len(shared)} such). "
            "Split by group."
        )


def _check_elsewhere(sources: Sequence[Source], further: Sequence[Source]) -> None:
    """Refuse further test sets of one name, and such with a patient who is trained on or chosen by."""
    names = [source.dataset.root.resolve().name for source in further]
    taken = [name for name in names if name in _OWN or names.count(name) > 1]
    if taken:
        raise UserError(f"--also-test: expected folders of different names, got {taken[0]!r}. Rename one.")
    check_leaks([*sources, *further])
    for source in further:
        seen = sources[0].groups("train") | sources[0].groups("val")
        if shared := sorted(seen & source.groups("test")):
            raise UserError(
                f"--also-test {source.path}: expected patients that are not trained on, got {shared[0]!r} "
                f"({len(shared)} such) in {sources[0].dataset.root} as well. Leave them out, or rename their groups."
            )


def _check_schemes(comparison: Comparison) -> None:
    """Refuse further test tiles that do not read as the scheme of the trainings."""
    scheme = choose_scheme(comparison.sources, comparison.config.train.scheme)
    for source in comparison.elsewhere:
        for own in source.dataset.schemes:
            own.projection(scheme)


def _check_fractions(comparison: Comparison) -> None:
    """Refuse two fractions that come to the same patients: they would be one training, shown as two."""
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
    """Refuse a folder that holds another comparison or anything else.

    Raises:
        UserError: with what to do about it.
    """
    if is_begun(comparison.out, "a comparison", {*_OWN, *comparison.tests}.__contains__):
        check_same(comparison.out, "a comparison", comparison.document, "Use another --out.")


def run(
    comparison: Comparison,
    *,
    device: str = "cpu",
    keep_weights: bool = False,
    on_start: Callable[[int, int], None] = lambda done, total: None,
    on_step: Callable[[int], None] = lambda steps: None,
    on_cell: Callable[[Record, Scores], None] = lambda record, scores: None,
) -> Scores:
    """Run what is missing, training by training; failed ones are tried again.

    Args:
        comparison: what `prepare` gave. device: where to compute.
        keep_weights: leave the weights of finished trainings in their folders.
        on_start: told of the steps that were done before, and of all.
        on_step: told of the steps done, of all trainings together.
        on_cell: told of every training that ends, with all scores so far.

    Returns:
        The scores of all finished trainings, and what stopped the others.
    """
    check_target(comparison)
    folder, steps = comparison.out / CELLS, comparison.config.train.steps
    images = _images(comparison, OWN_TEST)
    comparison.out.mkdir(parents=True, exist_ok=True)
    with lock_folder(comparison.out):
        begin(comparison.out, comparison.document, comparison.config.model_dump(mode="json"), clear=False)
        folder.mkdir(exist_ok=True)
        for record in taken_over(comparison).values():
            write_record(folder, record)
        found = {cell: read_record(folder, cell, comparison.fingerprint(cell)) for cell in comparison.cells}
        records = {cell: record for cell, record in found.items() if record and record.error is None}
        on_start(len(records) * steps, len(found) * steps)
        for cell in comparison.cells:
            if cell not in records:
                before = len(records) * steps
                record = _run_cell(comparison, cell, device, lambda step, before=before: on_step(before + step))  # type: ignore[misc]
                write_record(folder, record)
                records[cell] = record
                if record.error is None and not keep_weights:
                    (folder / cell.name / BEST).unlink(missing_ok=True)
                on_step(len(records) * steps)
                on_cell(record, collect(records.values(), images))
            if records[cell].error is None:  # the state is large, and nothing goes on from it
                (folder / cell.name / LAST).unlink(missing_ok=True)
    return collect(records.values(), images)


def scores_elsewhere(comparison: Comparison, scores: Scores) -> dict[str, Scores]:
    """Scores of the same trainings on each of the further test sets, by its name."""
    folder, ended = comparison.out / CELLS, {*scores.cells, *scores.failed}
    found = [read_record(folder, cell, comparison.fingerprint(cell)) for cell in comparison.cells if cell in ended]
    records = [record for record in found if record is not None]
    return {name: collect(records, _images(comparison, name), name) for name in comparison.tests if name != OWN_TEST}


def _images(comparison: Comparison, test: str) -> list[tuple[str, str]]:
    """Name and patient of every image of a test set."""
    return [(parts.name, parts.group or parts.name) for parts in whole_parts(comparison.tests[test][1])]


def taken_over(comparison: Comparison) -> dict[Cell, Record]:
    """What `run` takes over from the other comparison: trainings that are the same, and not yet in this one."""
    folder = comparison.out / CELLS
    return {
        cell: record for cell, record in _same_in_reuse(comparison).items() if read_any_record(folder, cell) is None
    }


def _same_in_reuse(comparison: Comparison) -> dict[Cell, Record]:
    """Finished trainings of the other comparison that are this one's as well."""
    if comparison.reuse is None:
        return {}
    found = {}
    for cell in comparison.cells:
        record = read_any_record(comparison.reuse / CELLS, cell)
        if record is not None and record.error is None and record.fingerprint == comparison.fingerprint(cell):
            found[cell] = record
    return found


def _run_cell(comparison: Comparison, cell: Cell, device: str, on_step: Callable[[int], None]) -> Record:
    """Train a cell, from its checkpoint where there is one, and score it on the whole test images."""
    job = _prepare_cell(comparison, cell)
    try:
        experiment.run(job, device=device, resume=True, on_step=on_step)
        weights = load_weights(job.out, device)
        scores = [
            (name, score)
            for name, part in comparison.tests.items()
            for score in evaluate(weights, [part], precision=job.config.precision)
        ]
    except (FaultError, torch.OutOfMemoryError) as error:
        return Record(cell, comparison.fingerprint(cell), error=" ".join(str(error).split()))
    images = tuple(ImageFigures(score.name, score.group, score.figures, name) for name, score in scores)
    step, sha256 = weights.card["step"], sha256_file(weights.path)
    return Record(cell, comparison.fingerprint(cell), images, step=step, weights_sha256=sha256)


def _prepare_cell(comparison: Comparison, cell: Cell) -> Experiment:
    """The training of a cell, checked.

    All arms are validated on the real val split; where `final`, the one validation, after the last step, is of a tile
    that was trained on, and chooses nothing.
    """
    real, synth = comparison.sources[0], comparison.sources[-1]
    config, out = cell.train_config(comparison.config), comparison.out / CELLS / cell.name
    final = comparison.config.final
    validation = comparison.real_training(cell.fraction or 1.0, cell.seed) if final else real.split("val")
    job = experiment.prepare(config, real.path, synth.path, out, validation=validation)
    training = tuple(
        comparison.real_training(cell.fraction or 1.0, cell.seed) if source.role == "real" else part
        for source, part in zip(job.sources, job.training, strict=True)
    )
    return replace(job, training=training, chooses_instances=not final)
