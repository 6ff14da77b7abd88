"""The report of a comparison: scores as Parquet, summary as JSON, and a text with tables as Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from factory.core.document import Block, Bullets, Grid, Heading, Listing, Paragraph, Plot, to_html, to_markdown
from factory.core.encoding import json_bytes, parquet_bytes
from factory.core.statistics import Estimate
from manifests.files import write_atomic
from manifests.schema import DISCLAIMER
from segment.compare.config import ARMS, FURTHER_TOLERANCE, SET_BY_GRID, CompareConfig, Training, grid
from segment.compare.plot import plot_curves
from segment.compare.records import Record
from segment.compare.summary import Difference, Scores, Summary, sentences, shortfalls, summarise
from segment.metrics.names import METRICS

SCORES = "scores.parquet"
MARKDOWN = "report.md"
HTML = "report.html"
PLOT = "curves.png"
SUMMARY = "summary.json"
PUBLISHED = "published, not run here"


@dataclass(frozen=True)
class Setting:
    """Data and machine of the trainings, for the reader.

    Attributes:
        real: folder. patients, tiles: fraction -> their numbers in the training set, with seed 0.
        scored: folder of the test images. test: names of the whole test images.
        synth: folder, None without. synth_tiles: in its train split. device, threads: of the computation.
    """

    real: Path
    patients: dict[float, int]
    tiles: dict[float, int]
    scored: Path
    test: list[str]
    synth: Path | None
    synth_tiles: int
    device: str
    threads: int


def describe(config: CompareConfig, setting: Setting) -> list[str]:
    """Lines printed at the start of a comparison; the resolved configuration comes first."""
    count = len(grid(config))
    return [
        _as_yaml(config),
        *_protocol(config, setting),
        f"{count} trainings of {config.train.steps} steps; {len(setting.test)} whole test images.",
    ]


def describe_record(record: Record, scores: Scores, config: CompareConfig) -> str:
    """Line printed when a training ends."""
    training, count = record.training, len(scores.finished) + len(scores.failed)
    head = f"[{count}/{len(grid(config))}] {_name(training)}:"
    if record.error is not None:
        return f"{head} failed: {record.error}"
    means = {name: np.nanmean(scores.finished[training][name]) for name in scores.metrics}
    return f"{head} {', '.join(f'{METRICS[name].short_label} {value:.4f}' for name, value in means.items())}"


def describe_result(scores: Scores, config: CompareConfig, setting: Setting) -> list[str]:
    """Lines printed at the end of a comparison."""
    failed = [f"failed: {training.name}: {error}" for training, error in scores.failed.items()]
    summary = summarise(scores, config, setting.patients)
    against_more_patients = [
        f"{d.arm} - {d.than}, {_patients(d, setting)}: {METRICS[d.metric].short_label} "
        f"{_interval(d.estimate, sign='+')}, relative {_percent(d.relative)}"
        for d in summary.differences
        if d.has_more_patients and d.metric == scores.metrics[0]
    ]
    return [*failed, *against_more_patients, *sentences(scores, summary, config)]


def write_report(scores: Scores, config: CompareConfig, setting: Setting, out: Path) -> list[Path]:
    """Write scores, summary, plot, Markdown and HTML; returns their paths."""
    summary = summarise(scores, config, setting.patients)
    png = plot_curves(summary, config, setting.patients)
    title = "Do synthetic tiles help?"
    blocks = list(_blocks(scores, summary, config, setting, png))
    files = {
        SCORES: encode_scores(scores, config),
        SUMMARY: encode_summary(summary, setting),
        PLOT: png,
        MARKDOWN: to_markdown(title, blocks).encode(),
        HTML: to_html(title, blocks).encode(),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(out / name, content)
    return [out / name for name in files]


def encode_scores(scores: Scores, config: CompareConfig) -> bytes:
    """Parquet: a row per finished training and test image; a row without an image for each failed or missing one.

    Columns: arm, fraction (null for S), seed, status (finished, failed, missing), error, image, group, then every
    figure (null where nothing can be scored).
    """
    names = sorted({name for figures in scores.finished.values() for name in figures})
    rows: list[dict[str, object]] = []
    for training in grid(config):
        base = {
            "arm": training.arm,
            "fraction": training.fraction,
            "seed": training.seed,
            "status": _status(training, scores),
        }
        if training not in scores.finished:
            rows.append({**base, "error": scores.failed.get(training)})
            continue
        figures = scores.finished[training]
        for position, (image, group) in enumerate(zip(scores.images, scores.groups, strict=True)):
            values = {name: float(figures[name][position]) for name in names if name in figures}
            rows.append({**base, "image": image, "group": group, **values})
    fields = [("arm", pa.string()), ("fraction", pa.float64()), ("seed", pa.int64()), ("status", pa.string())]
    fields += [("error", pa.string()), ("image", pa.string()), ("group", pa.string())]
    schema = pa.schema([*fields, *((name, pa.float64()) for name in names)])
    plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
    return parquet_bytes(pa.Table.from_pylist(plain, schema))


def encode_summary(summary: Summary, setting: Setting) -> bytes:
    """JSON: every score and difference with its interval; null where there is nothing to average."""
    levels = [asdict(level) for level in summary.levels]
    differences = [
        {
            **asdict(difference),
            "real_patients": setting.patients[difference.fraction],
            "than_real_patients": setting.patients[difference.than_fraction],
        }
        for difference in summary.differences
    ]
    return json_bytes({"levels": levels, "differences": differences, "use": DISCLAIMER}, indent=1)


def _status(training: Training, scores: Scores) -> str:
    return "finished" if training in scores.finished else "failed" if training in scores.failed else "missing"


def _blocks(scores: Scores, summary: Summary, config: CompareConfig, setting: Setting, png: bytes) -> Iterator[Block]:
    yield from _answer(scores, summary, config)
    yield Plot("learning curves", PLOT, png)
    yield Heading("Scores")
    yield _score_table(scores, summary, config)
    yield Paragraph(
        f"Mean over the test images and seeds, [{config.bootstrap.level:.0%} interval]. Patients: in the training set "
        "at that fraction. S has no real patients and is trained once per seed."
    )
    yield Heading("Differences")
    has_claims = not shortfalls(scores, config)
    yield _difference_table([d for d in summary.differences if not d.has_more_patients], setting, has_claims=has_claims)
    yield Paragraph(_method(scores, config))
    yield from _more_patients(summary, config, setting, has_claims=has_claims)
    yield from _failures(scores, config)
    yield Heading("How it was run")
    yield Bullets(_protocol(config, setting))
    yield Listing(_as_yaml(config))


def _answer(scores: Scores, summary: Summary, config: CompareConfig) -> Iterator[Block]:
    every, finished, failed = len(grid(config)), len(scores.finished), len(scores.failed)
    yield Paragraph(
        f"{finished} of {every} trainings finished, {failed} failed, {every - finished - failed} still to run; "
        f"{len(scores.images)} whole test images. "
        "Not for diagnosis."
    )
    yield Bullets(sentences(scores, summary, config))


def _score_table(scores: Scores, summary: Summary, config: CompareConfig) -> Grid:
    metrics = scores.metrics
    header = ["training set", "real patients", *(METRICS[name].short_label for name in metrics), "seeds"]
    rows = []
    for (arm, fraction), levels in groupby(
        sorted(summary.levels, key=lambda level: (config.arms.index(level.arm), level.fraction or 0.0)),
        key=lambda level: (level.arm, level.fraction),
    ):
        by_metric = {level.metric: level.estimate for level in levels}
        done = sum(training.arm == arm and training.fraction == fraction for training in scores.finished)
        share = "-" if fraction is None else f"{fraction:.0%}"
        rows.append([arm, share, *(_interval(by_metric[name]) for name in metrics), f"{done} of {config.seeds}"])
    if not config.published:
        return Grid(header, rows)
    width = len(header) - 1
    rows = [[*row, "-"] for row in rows]
    for (name, source), values in groupby(config.published, key=lambda value: (value.name, value.source)):
        shown = ", ".join(f"{METRICS[value.metric].short_label} {value.value:.3f}" for value in values)
        rows.append([name, *["-"] * width, f"{shown} ({source})"])
    return Grid([*header, PUBLISHED], rows)


def _more_patients(summary: Summary, config: CompareConfig, setting: Setting, *, has_claims: bool) -> Iterator[Block]:
    """Synthetic tiles against as many additional real patients, where the fractions have such pairs."""
    if "R*" not in config.arms:
        return
    yield Heading("Against as many further real patients")
    differences = [d for d in summary.differences if d.has_more_patients]
    if not differences:
        yield Paragraph(
            "No fraction comes to twice the patients of another, so nothing can be said here. Add one to --fractions."
        )
        return
    yield _difference_table(differences, setting, has_claims=has_claims)
    yield Paragraph(
        "S* with n real patients against R* with 2n: below 0, as many further patients help more than the synthetic "
        "tiles do. R* against R* is what these patients add by themselves. Paired by seed and image as above. Numbers "
        "of patients are rounded: where no fraction comes to 2n, "
        f"the nearest within {FURTHER_TOLERANCE:.1%} of it stands for it."
    )


def _difference_table(differences: Sequence[Difference], setting: Setting, *, has_claims: bool) -> Grid:
    header = ["difference", "real patients", "metric", "mean [interval]", "relative", "d_z", "seeds", "patients"]
    rows = [
        [
            f"{d.arm} - {d.than}",
            _patients(d, setting) if d.has_more_patients else f"{d.fraction:.0%}",
            METRICS[d.metric].short_label,
            _interval(d.estimate, sign="+"),
            _percent(d.relative),
            "-" if math.isnan(d.effect) else f"{d.effect:+.2f}",
            str(d.estimate.seeds),
            str(d.estimate.patients),
        ]
        for d in differences
    ]
    if not has_claims:  # a column on 0 in the interval would be read as a claim
        return Grid(header, rows)
    shown = ["yes" if d.excludes_zero else "no" for d in differences]
    return Grid([*header, "leaves out 0"], [[*row, word] for row, word in zip(rows, shown, strict=True)])


def _patients(difference: Difference, setting: Setting) -> str:
    """Real patients of both arms, where one has more."""
    ours, theirs = setting.patients[difference.fraction], setting.patients[difference.than_fraction]
    return f"{ours} ({difference.fraction:.0%}) against {theirs} ({difference.than_fraction:.0%})"


def _percent(estimate: Estimate) -> str:
    if math.isnan(estimate.mean):
        return "-"
    return f"{estimate.mean:+.1%} [{estimate.low:+.1%}, {estimate.high:+.1%}]"


def _interval(estimate: Estimate, sign: str = "") -> str:
    if math.isnan(estimate.mean):
        return "-"
    return f"{estimate.mean:{sign}.4f} [{estimate.low:{sign}.4f}, {estimate.high:{sign}.4f}]"


def _method(scores: Scores, config: CompareConfig) -> str:
    boot, claims = config.bootstrap, config.claims
    groups = len(set(scores.groups))
    return (
        "A difference is taken between trainings of one seed on one test image, then averaged; relative: as a share of "
        "the mean of the arm that is subtracted, over the same pairs. Intervals: percentiles "
        f"of {boot.resamples} resamples that draw the seeds and, independently of them, the {groups} test patients "
        "with replacement (pigeonhole bootstrap, Owen 2007), the same draw for both arms. With few seeds or patients "
        "they are somewhat too narrow, and with a single one they say nothing of it; they are not corrected for "
        "the number of comparisons. d_z: Cohen's d for pairs, the mean over the standard deviation of the images' "
        "differences, each averaged over seeds. Images where a figure has no value (no nucleus in truth and "
        f"prediction) are left out. Sentences are drawn from {claims.min_steps} steps, {claims.min_seeds} seeds and "
        f"{claims.min_patients} test patients on, about the first metric alone."
    )


def _failures(scores: Scores, config: CompareConfig) -> Iterator[Block]:
    missing = [training for training in grid(config) if training not in scores.finished]
    if missing:
        yield Heading("Trainings without a result")
        yield Bullets([f"{_name(training)}: {scores.failed.get(training, 'not run yet')}" for training in missing])


def _as_yaml(config: CompareConfig) -> str:
    """The resolved configuration, as `--config` takes it."""
    values = config.model_dump(mode="json", exclude={"train": set(SET_BY_GRID)})
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _name(training: Training) -> str:
    share = "no real patients" if training.fraction is None else f"{training.fraction:.0%} of the real patients"
    return f"{training.arm}, {share}, seed {training.seed}"


def _protocol(config: CompareConfig, setting: Setting) -> list[str]:
    train, test = config.train, setting.test
    sizes = "; ".join(
        f"{share:.0%} are {setting.patients[share]} patients, {setting.tiles[share]} tiles"
        for share in config.fractions
    )
    chosen = (
        "Trained on the train and val splits together; the last weights count, nuclei are read as "
        "train.instances says, nothing is chosen."
        if config.final
        else "The val split of the real tiles, whatever the fraction, chooses the weights and how nuclei are read, for "
        "every arm, S included."
    )
    assert train.crop is not None
    lines = [
        *(f"{arm}: {ARMS[arm]}." for arm in config.arms),
        f"Real tiles: {setting.real}. {sizes} (seed 0).",
        f"Each training: {train.network.name} with {train.network.encoder}, {train.steps} steps of {train.batch} crops "
        f"of {train.crop[0]}x{train.crop[1]}, learning rate {train.lr:g}: the same for all arms, none is tuned.",
        "A seed gives every arm the same initial weights and the same patients; smaller fractions are part of larger.",
        chosen,
        f"Scored on the test split of {setting.scored}, {len(test)} whole images: {', '.join(test[:3])}"
        + (f" and {len(test) - 3} more." if len(test) > 3 else "."),
        f"Computed on {setting.device} in {train.precision}, {setting.threads} threads of torch.",
    ]
    if setting.synth is not None:
        share = f"; S* sees them at a share of {config.synth_share}" if "S*" in config.arms else ""
        weighting = ", ".join(f"{key} {value:g}" for key, value in config.weighting.model_dump().items())
        share += f"; W* and W>R weight them ({weighting})" if {"W*", "W>R"} & {*config.arms} else ""
        if "S>R" in config.arms:
            rest = f", later at a share of {train.pretraining.rest:g}" if train.pretraining.rest else ""
            share += f"; S>R for {config.pretraining_share:.0%} of its steps{rest}"
        lines.insert(
            len(config.arms) + 1, f"Synthetic tiles: {setting.synth}, {setting.synth_tiles} to train on{share}."
        )
    return lines
