"""Label schemes in YAML files."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from factory.plan.scheme_file import faults_of, load_scheme
from manifests import UserError

GOOD: dict[str, Any] = {
    "name": "organ",
    "classes": [
        {"id": 0, "name": "lumen", "colour": "#ffffff", "roles": "air"},
        {"id": 1, "name": "gland", "colour": [1, 2, 3], "appearance": "epithelium"},
    ],
    "projections": {"tissue": ["air", 1]},
}


def test_scheme_of_a_file_takes_names_and_hexadecimal_colours(tmp_path: Path) -> None:
    path = tmp_path / "organ.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    scheme = load_scheme(str(path))
    assert scheme.classes[0].colour == (255, 255, 255)
    assert scheme.ids("air") == (0,)
    assert scheme.classes[1].appearance == "epithelium"
    assert scheme.projections == {"tissue": (0, 1)}
    path.write_text(yaml.safe_dump({**GOOD, "name": "my organ", "tps_basis": "volume"}))
    with pytest.raises(UserError, match=r"organ\.yaml: name: .*got 'my organ'\. \(1 more: factory scheme check"):
        load_scheme(str(path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": None}, "name: expected letters"),
        ({"name": "pdl1"}, "name: expected one that is not shipped, got pdl1"),
        ({"classes": "air"}, "classes: expected a list"),
        ({"classes": ["air"]}, "classes.0: expected {id, name, colour}"),
        ({"classes": [{**GOOD["classes"][0], "id": 1}]}, "classes.0 (lumen): id: expected 0"),
        ({"classes": [{**GOOD["classes"][0], "name": True}]}, "classes.0: name: expected text"),
        ({"classes": [{**GOOD["classes"][0], "roles": "airs"}]}, "Did you mean air?"),
        ({"classes": [{**GOOD["classes"][0], "appearance": "dead"}]}, "appearance: expected epithelium"),
        ({"classes": GOOD["classes"] * 2}, "classes.2 (lumen): name: expected each name once, got that of classes.0"),
        ({"projections": {"tissue": [0]}}, "projections.tissue: expected a list of 2"),
        ({"projections": {"tissue": [0, "gland"]}}, "projections.tissue.1: expected a class of tissue (air, tissue)"),
        ({"colour": "red"}, "colour: expected a known key"),
    ],
)
def test_every_fault_is_named_by_its_key(change: dict[str, object], said: str) -> None:
    assert faults_of(GOOD) == []
    faults = faults_of({**GOOD, **change})
    assert any(said in fault for fault in faults), faults
