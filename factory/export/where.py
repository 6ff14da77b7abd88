"""`--where`: a condition on columns of the manifest, as an Arrow expression. Text is parsed, never evaluated."""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.dataset import Dataset
from manifests.errors import UserError

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def select(dataset: Dataset, condition: str) -> Dataset:
    """The rows that meet a condition such as ``TPS>0.1 and split == "train"``; a row without a value meets none.

    Args:
        dataset: the rows. condition: columns compared with numbers, texts, True and False; ``in [...]``, ``and``,
            ``or``, ``not``. TPS is the achieved one, on the basis of the scheme.

    Raises:
        UserError: for text that is no condition, an unknown column, or a value of another type than its column.
    """
    basis = {scheme.tps_basis for scheme in dataset.schemes}
    names = {name.lower(): name for name in dataset.table.column_names}
    names["tps"] = "tps_cells" if basis == {"cells"} else "tps_area"
    try:
        expression = _expression(ast.parse(condition.strip(), mode="eval").body, names, condition)
        return Dataset(dataset.root, dataset.table.filter(expression), dataset.info, dataset.store)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refusal(condition, f"text that does not parse ({str(error).splitlines()[0]})") from error
    except (pa.ArrowException, TypeError) as error:
        raise _refusal(condition, f"values of another type than the column ({str(error).splitlines()[0]})") from error


def _expression(node: ast.expr, names: Mapping[str, str], condition: str) -> Any:
    match node:
        case ast.BoolOp(op, values):
            parts = [_expression(value, names, condition) for value in values]
            whole = parts[0]
            for part in parts[1:]:
                whole = whole & part if isinstance(op, ast.And) else whole | part
            return whole
        case ast.UnaryOp(ast.Not(), operand):
            return ~_expression(operand, names, condition)
        case ast.Compare(left, operators, others):
            terms = [left, *others]
            steps = zip(operators, terms, terms[1:], strict=False)
            compared = [_comparison(op, a, b, names, condition) for op, a, b in steps]
            whole = compared[0]
            for part in compared[1:]:
                whole = whole & part
            return whole
        case ast.Name(name) if name.lower() in names:
            return pc.field(names[name.lower()])  # a column of True and False
    raise _refusal(condition, ast.unparse(node))


def _comparison(op: ast.cmpop, left: ast.expr, right: ast.expr, names: Mapping[str, str], condition: str) -> Any:
    if isinstance(op, ast.In | ast.NotIn):
        try:
            values = list(ast.literal_eval(right))
        except (ValueError, TypeError) as error:
            raise _refusal(condition, f"{ast.unparse(right)} where a list of values belongs") from error
        found = _term(left, names, condition).isin(values)
        return ~found if isinstance(op, ast.NotIn) else found
    if type(op) not in _COMPARISONS:
        raise _refusal(condition, f"{ast.unparse(left)} {type(op).__name__.lower()} {ast.unparse(right)}")
    return _COMPARISONS[type(op)](_term(left, names, condition), _term(right, names, condition))


def _term(node: ast.expr, names: Mapping[str, str], condition: str) -> Any:
    if isinstance(node, ast.Name):
        if node.id.lower() not in names:
            near = difflib.get_close_matches(node.id.lower(), names, n=1)
            hint = f" Did you mean {names[near[0]]}?" if near else ' Write texts in quotes: split == "train".'
            raise UserError(f"--where {condition}: expected a column of the manifest, got {node.id}.{hint}")
        return pc.field(names[node.id.lower()])
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise _refusal(condition, ast.unparse(node)) from error
    if not isinstance(value, bool | int | float | str):
        raise _refusal(condition, ast.unparse(node))
    return pc.scalar(value)


def _refusal(condition: str, got: str) -> UserError:
    return UserError(
        f"--where {condition}: expected comparisons of columns, as in TPS>0.1 and cells>=20, got {got}. "
        "Join them with and, or, not; compare with ==."
    )
