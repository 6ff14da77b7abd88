"""Checks of the data sets of a comparison: no patient on both sides, and no set that knows more than its cell."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from factory.core.datasets import real_groups_of
from factory.core.leaks import tested_groups_among
from manifests.errors import UserError
from segment.compare.config import Training
from segment.compare.sets import Part, path_of
from segment.data.sources import Source, check_leaks, groups_of

_ADVICE = (
    "Give --synth a pattern such as 'data/synth-{fraction}-{seed}' with one set for each cell "
    "(python -m experiments.few_images makes them), or compare with --fractions 1.0 alone."
)


def check_patients(sources: tuple[Source, ...]) -> None:
    """Refuse a patient who is in the test split and in training or validation."""
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


def check_external(sources: Sequence[Source], further: Sequence[Source], reserved: Collection[str]) -> None:
    """Refuse external test sets with a taken name, and patients of theirs who are in training or validation."""
    names = [source.dataset.root.resolve().name for source in further]
    taken = [name for name in names if name in reserved or names.count(name) > 1]
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


def check_knowledge(
    sets: dict[Path, Source], synth: Path, trainings: Iterable[Training], real: Source, part: Part
) -> None:
    """Refuse a set that knows patients which its cell does not train on.

    A row with n patients must know these n alone: a generator that learnt from more would bring the others in. With
    all patients, those of the val split may be known: they choose weights alone.
    """
    for training in trainings:
        if not training.has_synth or training.fraction in (None, 1.0):
            continue
        own = groups_of(part(training.fraction, training.seed))
        source = sets[path_of(synth, training)]
        listed = [*source.dataset.info.training_sources, *real_groups_of(source.dataset.table), *source.groups("train")]
        others = (real.groups("train") | real.groups("val")) - own
        if known := tested_groups_among(listed, others):
            raise UserError(
                f"{source.path}: expected tiles that know the {len(own)} patients of fraction {training.fraction:g}, "
                f"seed {training.seed} alone, got {known[0]!r} among their sources ({len(known)} such). {_ADVICE}"
            )
