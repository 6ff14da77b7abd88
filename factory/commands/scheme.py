"""`factory scheme`: label schemes of one's own."""

from pathlib import Path
from typing import Annotated

import typer

from factory.core.command_line import application


def check(file: Annotated[Path, typer.Argument(help="YAML file of a label scheme.")]) -> None:
    """Check a label scheme in a YAML file: every fault in a line of its own, with its key; exit code 2.

    Without a fault, what each class counts as, looks like and reads as, and the mask generators that draw the scheme.

    Examples:
      factory scheme check glands.yaml
      factory scheme check ../shared-schemes/kidney.yaml
    """
    from rich.table import Table

    from factory.core.config import read_yaml
    from factory.core.console import say
    from factory.make.recipes.masks_and_renderer import plain_generators
    from factory.plan.scheme_file import SUFFIXES, faults_of, load_scheme
    from factory.renderers.stain.region_looks import distinct_looks
    from manifests.errors import UserError
    from manifests.labels import IGNORE, SCHEMES

    if file.suffix.lower() not in SUFFIXES:
        raise UserError(f"{file}: expected a file named *.yaml, as --scheme reads it, got another name. Rename it.")
    faults = faults_of(read_yaml(file))
    for fault in faults:
        typer.echo(f"error: {file}: {fault}", err=True)
    if faults:
        raise typer.Exit(2)
    scheme = load_scheme(str(file))
    looks = distinct_looks(scheme, {})
    shown = Table("id", "class", "colour", "roles", "stain draws", *scheme.projections, title=f"Scheme {scheme.name}")
    for label in scheme.classes:
        colour = "#" + bytes(label.colour).hex()
        drawn = looks.get(label.name) or label.appearance or "by its roles"
        others = (
            "ignore"
            if ids[label.id] == IGNORE
            else SCHEMES[target].names[ids[label.id]]
            if target in SCHEMES
            else str(ids[label.id])
            for target, ids in scheme.projections.items()
        )
        shown.add_row(str(label.id), label.name, f"[{colour}]{colour}[/]", ", ".join(label.roles), drawn, *others)
    say(shown)
    repeated = sorted({look for look in looks.values() if list(looks.values()).count(look) > 1})
    if repeated:
        say(f"note: several classes look like {', '.join(repeated)}; tell them apart by appearance:")
    masks = ", ".join(plain_generators(scheme))
    say(f"{file}: no fault. Make tiles: factory make --scheme {file}" + (f" (--masks {masks})" if masks else ""))


scheme = application("scheme", "Label schemes of one's own.", {"Commands": [check]})
