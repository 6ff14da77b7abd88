"""`factory verify`: does a data set hold what it promises?"""

from pathlib import Path
from typing import Annotated

import typer

from factory.core.options import DATASET


def verify(
    dataset: Annotated[Path, DATASET] = Path("data/synth"),
    repair: Annotated[
        bool,
        typer.Option(
            help="Set strangers aside, mend run.yaml, and remove the records of damaged shards, so that their command "
            "makes them again."
        ),
    ] = False,
) -> None:
    """Check every file against SHA256SUMS, the ledger against the manifest, and every row against its stored tile.

    Examples:
      factory verify data/synth
      factory verify data/real --repair
      factory verify s3://bucket/synth
    """
    from factory.core.console import progress, say
    from factory.core.datasets import real_pixel_lines
    from factory.core.folder import RUN, lock_folder
    from factory.core.paths import local_path
    from factory.core.runs import encode_run
    from factory.core.wording import plural
    from manifests import FaultError
    from manifests import verify as check
    from manifests.dataset import open_dataset
    from manifests.repair import repair as mend

    if repair:
        local_path(dataset, "dataset with --repair")
    with progress("verifying", 0) as bar:
        faults = check(dataset, lambda done, total: bar.to(done, total))
    if not faults:
        held = open_dataset(dataset, columns=("real_pixels", "real_groups", "licence"))
        inside = (f"{line[0].upper()}{line[1:]}. " for line in real_pixel_lines(held.table, held.info))
        say(f"{dataset}: every file, record and row holds. {''.join(inside)}Look: factory inspect {dataset}")
        return
    say(*map(str, faults))
    if repair:
        with lock_folder(dataset):
            done = mend(dataset, faults, encode_run)
        if done.strangers:
            say(f"set {plural(len(done.strangers), 'stranger')} aside in {done.aside}.")
        if done.run:
            say(f"wrote {RUN} again, from the ledger.")
        if done.is_whole:
            say(f"{dataset}: nothing is left to mend. Check: factory verify {dataset}")
            return
        say(f"removed the records of {plural(len(done.shards), 'shard')}: run the command that made {dataset} again.")
    more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
    raise FaultError(f"{dataset}: expected a data set as it was written, got a fault: {faults[0]}{more}.")
