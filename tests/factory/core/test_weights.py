"""Weights files: a card and a digest in plain safetensors, written and read without torch."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from factory.core.weights import read_card, read_header, write_with_card
from manifests.errors import UserError
from manifests.labels import get_scheme

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(7, np.int64), "none": np.zeros((0, 4))}
CARD = {"kind": "generator-weights", "groups": ["p1"], "lr": 0.1}


def test_a_file_with_a_card_is_plain_safetensors_of_the_same_bytes_every_time(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    sha256 = write_with_card(path, save(TENSORS), CARD)
    first = path.read_bytes()
    assert write_with_card(path, save(dict(reversed(TENSORS.items()))), dict(reversed(CARD.items()))) == sha256
    assert path.read_bytes() == first
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    assert all(
        np.array_equal(found[name], array) and found[name].dtype == array.dtype for name, array in TENSORS.items()
    )
    card = read_card(path, "generator-weights")
    assert (card.fields, card.kind, card.sha256, card.size_bytes) == (CARD, "generator-weights", sha256, len(first))


@pytest.mark.parametrize("change", [{"lr": 0.2}, {"kind": "segment-weights"}])
def test_the_digest_covers_the_card(tmp_path: Path, change: dict[str, object]) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    assert write_with_card(one, save(TENSORS), CARD) != write_with_card(other, save(TENSORS), CARD | change)


def test_two_tensors_whose_names_change_places_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_with_card(path, save({"first": np.zeros(4), "other": np.ones(4)}), CARD)
    content = path.read_bytes()
    swapped = content.replace(b'"first"', b'"@@@@@"').replace(b'"other"', b'"first"').replace(b'"@@@@@"', b'"other"')
    assert swapped != content
    path.write_bytes(swapped)
    with pytest.raises(UserError, match="got a damaged file"):
        read_card(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got other content"),
        ((40).to_bytes(8, "little") + b"{" + b"[" * 39, "got a damaged header"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "got other content"),
        ((2).to_bytes(8, "little") + b"{}", "got a file without"),
        (save(TENSORS, metadata={"pathology_tile_factory": "[]"}), "got a file without"),
        (save(TENSORS, metadata={"pathology_tile_factory": '{"card": 3, "sha256": "0"}'}), "got a file without"),
    ],
)
def test_what_is_no_file_with_a_card_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as refusal:
        read_card(path)
    assert str(refusal.value).startswith(f"{path}: expected")
    assert "\n" not in str(refusal.value)


def test_a_card_of_another_kind_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_with_card(path, save(TENSORS), CARD)
    with pytest.raises(UserError, match="expected a file of kind segment-weights, got generator-weights"):
        read_card(path, "segment-weights")
    with pytest.raises(UserError, match="No such file"):
        read_header(tmp_path / "none.safetensors")


WRONG = (None, -1, 10**30, "x", [], {}, [[1]], True, {"a": None}, ["x", "y"])
TYPED = {
    "generator": "depas", "mpp": 0.5, "sources": ["a"], "licences": ["b"], "network": {"size": [64, 64]},
    "classes": ["tumour"], "trained_size": [64, 64], "looks": [[[0.1, 0.2, 0.3]]], "taps": ["b4"], "channels": [3],
    "held_out": {"mean_dice": 0.5, "images": 3}, "nuclei": {"nucleus": 1}, "scheme": get_scheme("tissue").to_dict(),
}  # fmt: skip
TYPED_OF_SEGMENT = {"mpp": [0.5], "groups": ["a"], "sources": {"real": ["a"]}, "trained_on": {"real": {"sha256": "a"}}}


@pytest.mark.parametrize(("kind", "typed"), [("renderer-weights", TYPED), ("segment-weights", TYPED_OF_SEGMENT)])
def test_fields_of_a_card_have_their_types_or_the_file_is_named(
    tmp_path: Path, kind: str, typed: dict[str, object]
) -> None:
    path, content = tmp_path / "w.safetensors", save({})
    write_with_card(path, content, {"kind": kind, **typed})
    assert read_card(path).fields == {"kind": kind, **typed}
    refused = []
    for name, value in itertools.product(typed, WRONG):
        write_with_card(path, content, {"kind": kind, **typed, name: value})
        try:
            found = read_card(path).fields[name]
            assert found is None or type(found) is type(typed[name])
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > len(typed) * len(WRONG) / 2
    assert all(line.startswith(f"{path}: card: ") for line in refused)
    write_with_card(path, content, {"kind": kind, **typed})
    with pytest.raises(UserError, match="card: expected config, got none"):
        read_card(path).fields["config"]


def test_a_network_of_absurd_size_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    import torch

    from factory.core.checkpoints import build_for, write_checkpoint

    path = tmp_path / "w.safetensors"
    write_checkpoint(path, torch.nn.Linear(3, 2).state_dict(), CARD)
    assert isinstance(build_for(path, lambda: torch.nn.Linear(3, 2)), torch.nn.Linear)
    with pytest.raises(UserError, match="weights that fit their card, got others"):
        build_for(path, lambda: torch.nn.Linear(2**24, 2**24))
    with pytest.raises(UserError, match="more than 20000 layers"):
        build_for(path, lambda: torch.nn.Sequential(*(torch.nn.ReLU() for _ in range(30_000))))


def test_a_header_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for header, said in (
        (b'{"a":[' + b"[]," * 2_000_000 + b"0]}", "damaged header"),
        (b"{" + b" " * (9 << 20) + b"}", "a header of at most"),
    ):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(UserError, match=said):
            read_card(path)


def test_a_card_is_read_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_with_card(path, save(TENSORS), CARD)
    code = (
        "import sys; from pathlib import Path; from factory.core.weights import read_card; "
        "read_card(Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
