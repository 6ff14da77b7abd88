"""Command line of both programs: help in groups with examples, and one-line messages for arguments that do not fit."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
import shlex
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from factory.core.paths import DATA_SETS, FREE_TEXT, dataset_path, local_text
from factory.core.wording import read_number

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter, Parameter

DISTRIBUTION = "pathology-tile-factory"
_EXAMPLES = "\n\nExamples:\n"


class Interrupted(BaseException):
    """A command was stopped by Ctrl-C or SIGTERM.

    Attributes:
        advice: how to go on. terminated: by SIGTERM.
    """

    def __init__(self, advice: str, *, terminated: bool) -> None:
        super().__init__(advice)
        self.advice, self.terminated = advice, terminated


class Terminated(BaseException):
    """SIGTERM arrived; unwinds like KeyboardInterrupt, so that nothing half-written stays."""


class Command(TyperCommand):
    """A command whose docstring may end in a section ``Examples:`` with one command line a line.

    Attributes:
        examples: these command lines.
    """

    resumes = False
    """Whether the same command line continues an interrupted run."""

    def __init__(self, *args: Any, help: str | None = None, **settings: Any) -> None:
        text, _, examples = (help or "").partition(_EXAMPLES)
        self.examples = tuple(line.strip() for line in examples.splitlines() if line.strip())
        super().__init__(*args, help=text, **settings)
        for param in self.params:
            param.secondary_opts = []  # a flag has one name, without a --no-...
            if getattr(param, "multiple", False) and param.metavar is None:
                kind = next(_parts(typing.get_type_hints(self.callback)[param.name]))
                param.metavar = f"<{kind.__name__.lower()}>"

    def format_help_text(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the description, then the examples."""
        super().format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write arguments and options in their groups (``rich_help_panel``), in the order of the first of each."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(_group_of(param), []).append(record)
        for name in sorted(groups, key=lambda name: name == "Options"):  # those of no group, --help among them, last
            with formatter.section(name):
                formatter.write_dl(groups[name])

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Parse arguments. Raises a UserError for a value of the wrong type."""
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            values, _, _ = self.make_parser(ctx).parse_args(args=typed)
            message = _describe(error, values, typing.get_type_hints(self.callback))
            if message is None:
                raise
            from manifests.errors import UserError

            raise UserError(message) from error

    def invoke(self, ctx: Context) -> Any:
        """Run the command. Raises Interrupted for Ctrl-C and SIGTERM, with the command line that goes on."""
        hints = typing.get_type_hints(self.callback)
        for param in self.params:
            is_path = Path in _parts(hints.get(param.name))
            if param.name in ctx.params and (is_path or param.name not in FREE_TEXT):
                read = dataset_path if (self.name, param.name) in DATA_SETS else local_text
                value = ctx.params[param.name]
                ctx.params[param.name] = value and read(value, _name_of(param))
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, Terminated) as error:
            words = [str(ctx.find_root().info_name), *sys.argv[1:]]
            again = shlex.join(words)
            advice = f"Nothing is kept. To start again: {again}"
            by_option = any(param.name == "resume" for param in self.params)
            notes = " ".join(getattr(error, "__notes__", []))  # of the code that knows what is kept
            if notes or by_option or self.resumes:
                again += " --resume" if by_option and "--resume" not in words else ""
                kept = "What was kept before stays." if by_option else "What is finished is kept."
                advice = f"{notes or kept} To go on: {again}"
            raise Interrupted(advice, terminated=isinstance(error, Terminated)) from error


class ResumableCommand(Command):
    """A command that keeps what is finished, and goes on when it is run again."""

    resumes = True


class Group(TyperGroup):
    """A program, or a group of commands: without arguments it shows its help."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Parse arguments."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the commands in their groups, each with the first sentence of its help."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            summary = (command.help or "").split("\n\n")[0].replace("\n", " ").rstrip(".")
            group = str(getattr(command, "rich_help_panel", None) or "Commands")
            groups.setdefault(group, []).append((name, summary))
        for group, rows in groups.items():
            with formatter.section(group):
                formatter.write_dl(rows)


def unpacked(function: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command so that the fields of a dataclass among its parameters are options of their own.

    A command takes what belongs together as one object, ``def make(request: MakeRequest, ...)``; the fields, annotated
    with `factory.core.options.Heading`, stand in its help, and the object is built from what was typed.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    fields_of: dict[str, list[str]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if not dataclasses.is_dataclass(hints[name]):
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        types = typing.get_type_hints(hints[name], include_extras=True)
        fields = dataclasses.fields(hints[name])
        fields_of[name] = [field.name for field in fields]
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
                annotation=types[field.name],
            )
            for field in fields
        ]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name, fields in fields_of.items():
            values[name] = hints[name](**{field: values.pop(field) for field in fields})
        function(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def application(
    name: str,
    help: str,
    commands: Mapping[str, Sequence[Callable[..., None] | typer.Typer]],
    resumable: Collection[Callable[..., None]] = (),
) -> typer.Typer:
    """Build a program or a group of commands.

    Args:
        name: of the program. help: its description.
        commands: functions, or groups of commands, by heading in the help.
        resumable: functions of the commands that go on when they are run again.
    """
    app = typer.Typer(
        name=name,
        cls=Group,
        help=help,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    for heading, members in commands.items():
        for member in members:
            if isinstance(member, typer.Typer):
                app.add_typer(member, rich_help_panel=heading)
            else:
                kind = ResumableCommand if member in resumable else Command
                app.command(member.__name__.strip("_"), cls=kind, rich_help_panel=heading)(member)
    return app


def show_version(wanted: bool) -> None:
    """Print the version of the installed distribution and exit, where that is wanted."""
    if wanted:
        from importlib.metadata import version

        typer.echo(version(DISTRIBUTION))
        raise typer.Exit


def program_options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Declare the options of a program: ``app.callback()(program_options)``."""


def _group_of(param: Parameter) -> str:
    panel = getattr(param, "rich_help_panel", None)
    return str(panel or ("Arguments" if param.param_type_name == "argument" else "Options"))


def _name_of(param: Any) -> str:
    """``--option`` or ``ARGUMENT``, as typed."""
    return str(param.opts[0] if param.param_type_name == "option" else (param.metavar or param.name.upper()))


def _describe(error: typer.BadParameter, values: Mapping[str, Any], hints: Mapping[str, Any]) -> str | None:
    """Message for a value of the wrong type; None where the error is another, or names no parameter."""
    param = error.param
    if param is None or values.get(param.name) is None:
        return None
    annotation, value = hints[param.name], values[param.name]
    kinds = list(_parts(annotation))
    where = _name_of(param)
    choices = [kind for kind in kinds if isinstance(kind, str)]
    text = str(value)
    if choices:
        near = difflib.get_close_matches(text, choices, n=1)
        advice = f"Did you mean {near[0]}?" if near else f"Write for example {where} {choices[0]}."
        return f"{where}: expected one of {', '.join(choices)}, got {text!r}. {advice}"
    if int in kinds or float in kinds:
        return _describe_number(where, text, whole=int in kinds, param=param)
    return None


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield the types and literal values that an annotation is made of."""
    members = typing.get_args(annotation)
    if not members:
        yield annotation
    for member in members:
        yield from _parts(member)


def _describe_number(where: str, text: str, *, whole: bool, param: Any) -> str | None:
    number = read_number(text)
    if whole and (number is None or number != int(number) or not re.fullmatch(r"[+-]?\d+", text)):
        is_whole = number is not None and number == int(number)
        advice = f"Write {int(number)}." if number is not None and is_whole else f"Write for example {where} 100."
        return f"{where}: expected a whole number, got {text!r}. {advice}"
    if not whole and not re.fullmatch(r"[-+.\de]+", text, re.IGNORECASE):
        advice = f"Write {number:g}." if number is not None else f"Write for example {where} 0.5."
        return f"{where}: expected a number, got {text!r}. {advice}"
    low, high = param.min, param.max
    if low is None and high is None:
        return None
    limits = f"{low} to {high}" if None not in (low, high) else f"{low} or more" if high is None else f"at most {high}"
    return f"{where}: expected {limits}, got {text}. Choose another number."
