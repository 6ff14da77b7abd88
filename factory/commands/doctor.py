"""`factory doctor`: is this installation well?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from factory.doctor.report import Report


def doctor(
    data: Annotated[Path, typer.Option(help="Folder of the data sets, whose disk is checked too.")] = Path("data"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON instead of text.", show_default=False)
    ] = False,
) -> None:
    """Check versions, imports, devices, memory, disk, weights, parts, readers and data sets.

    Exit code 0 when all is well; 1 when something is not, with a line that says what to do.

    Examples:
      factory doctor
      factory doctor --data /mnt/data --json
    """
    import json

    from factory.doctor.examine import examine

    report = examine(data)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _print(report)
    if report.problems:
        raise typer.Exit(1)


def _print(report: "Report") -> None:
    from rich.markup import escape

    from factory.core.console import console

    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "problem": "[red]problem[/]"}
    screen, part = console(), ""
    for finding in report.findings:
        if finding.part != part:
            part = finding.part
            screen.print(f"[bold]{part}[/]", highlight=False)
        advice = f". {finding.advice}" if finding.advice else ""
        padding = " " * (7 - len(finding.state))
        line = f"  {marks[finding.state]}{padding}  {escape(f'{finding.name:<28}  {finding.text}{advice}')}"
        screen.print(line, highlight=False, soft_wrap=True)
    problems = len(report.problems)
    closing = "all is well" if not problems else f"{problems} problem{'s' if problems > 1 else ''}, see above"
    screen.print(f"[bold]{closing}[/]", highlight=False)
