"""Small files that would cost much memory, time or screen are refused in one line, before anything is built of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.core.config import Config, parse, read_yaml
from manifests import UserError
from manifests.errors import one_line
from manifests.limits import LimitError, parse_json, read_bytes, reads
from manifests.table import read_columns

ALIASES = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"a: &a [{'x, ' * 9}x]\n{ALIASES}", "more than 100,000 values"),
        (f"a: &a {'x' * 9000}\nb: [{'*a, ' * 200}*a]", "more than 100,000 values or 1,048,576 characters"),
        ("masks: &m {name: ihc, regions: *m}", "a document without an end"),
        ("a: &a {x: 1}\nb: &b {<<: [" + "*a, " * 200_000 + "*a]}", "more than 100,000 values"),
        ("[" * 65 + "]" * 65, "more than 64 lists"),
        ("[" * 100_000, "while increasing"),
        ("x" * 2_000_000, "more than 1,048,576 bytes"),
        ("n: " + "9" * 5000, "a number of 5000 digits"),
        ("n: 0x" + "f" * 100_000, "a number of 100002 digits"),
        ("n: " + "1:" * 5000 + "1", "a number of"),
    ],
)
def test_a_configuration_that_is_a_bomb_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"bomb.yaml: expected YAML, got {said}"):
        read_yaml(path)


def test_aliases_that_stay_small_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {x: 0x1F}\nb: {<<: *a, y: 1}\nc: [*a, *a]")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"x": 31}, "b": {"x": 31, "y": 1}, "c": [{"x": 31}] * 2}


@pytest.mark.parametrize(
    "text", [b"[" + b"[]," * 3_000_000 + b"0]", b"[" + b"{}," * 3_000_000 + b"0]", b"9" * 401, b'{"a":-' + b"1" * 999]
)
def test_json_that_is_a_bomb_is_refused(text: bytes) -> None:
    with pytest.raises(LimitError, match=r"more than|a number of"):
        parse_json(text)


def test_a_file_is_not_read_beyond_its_bound(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(LimitError, match="more than 1,000 bytes"):
        read_bytes(tmp_path / "sparse", 1000)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([np.full(20_000, 0.2)] * 10), "at most 1,024 values in a row, got 20,000"),
        (pa.array([["x" * 100] * 700] * 400), "at most 16,384 bytes in a row|at most 1,024 values"),
    ],
)
def test_a_manifest_that_is_a_bomb_is_refused_before_it_is_read(tmp_path: Path, column: pa.Array, said: str) -> None:
    name = "request_fractions" if pa.types.is_floating(column.type.value_type) else "real_groups"
    pq.write_table(pa.table({name: column}), tmp_path / "bomb.parquet", use_dictionary=False)
    with pytest.raises(UserError, match=said):
        read_columns(tmp_path / "bomb.parquet")


def test_a_footer_of_absurd_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long.parquet").write_bytes(b"PAR1" + bytes(64) + (1 << 30).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(UserError, match="expected a footer of at most"):
        read_columns(tmp_path / "long.parquet")


def test_messages_are_one_bounded_line_without_control_characters() -> None:
    class Sizes(Config):
        n: int = 1

    with pytest.raises(UserError, match=r"\.\.\.") as refused:
        parse(Sizes, {"n": ["\x1b[31m" * 100_000]}, "a.yaml")
    assert len(str(refused.value)) < 400
    assert one_line("a\nb \x1b[0m\x07 \udcff\u202e\u0085c") == r"a b \x1b[0m\x07 \udcff\u202e c"
    assert len(one_line("x" * 10**7)) < 1100
    assert one_line("x" * 10**7 + " Name another file.").endswith(" Name another file.")


def test_any_exception_of_a_reader_is_one_line_that_names_the_file() -> None:
    @reads("a thing")
    def read(path: Path, error: Exception) -> None:
        raise error

    for error in (KeyError("a"), RecursionError(), ZeroDivisionError("x\ny"), MemoryError(), OSError(5, "no disk")):
        said = rf"w\.bin: expected a thing, got one that cannot be read \({type(error).__name__}"
        with pytest.raises(UserError, match=said):
            read(Path("w.bin"), error)
    with pytest.raises(UserError, match=r"^own words$"):
        read(Path("w.bin"), UserError("own words"))
