"""`factory scheme check`."""

from pathlib import Path

from tests.factory.commands.test_messages import Cli


def test_check_names_every_fault_in_a_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nclasses: [{id: 1, name: tumour, colour: red}]\n")
    refused = cli("factory", "scheme", "check", "mine.yaml")
    assert refused.code == 2
    first, second = refused.err.strip().splitlines()
    assert first.startswith("error: mine.yaml: classes.0 (tumour): id: expected 0")
    assert "colour: expected [R, G, B]" in second
    (tmp_path / "mine.yaml").write_text("name: mine\nclasses: [{id: 0, name: gland, colour: '#ff0000'}]\n")
    shown = cli("factory", "scheme", "check", "mine.yaml")
    assert shown.code == 0
    assert "stroma" in shown.out
    assert "--masks polygons" in shown.out
