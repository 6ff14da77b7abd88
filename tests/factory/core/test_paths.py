"""URLs and ~ in what people type, for every command and the Python functions."""

from collections.abc import Callable
from pathlib import Path

import pytest

from factory.api.arguments import path_of
from factory.core.paths import local_path, local_text
from manifests.errors import UserError
from tests.conftest import Outcome


@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://b", "https://x.org/a.svs", "file:///tmp/x"])
def test_url_is_refused_by_name_and_makes_no_folder(url: str) -> None:
    for refused in (lambda: local_path(url), lambda: local_path(Path(url)), lambda: local_text(("a", url), "--out")):
        with pytest.raises(UserError, match="expected a path on this machine, got the URL"):
            refused()
    with pytest.raises(UserError, match="the URL s3://"):
        local_text("real=s3://bucket/x", "--set")


def test_home_is_found_in_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert path_of("~/x") == Path("/home/someone/x")
    assert local_text("masks.weights=~/w", "--set") == "masks.weights=/home/someone/w"
    assert local_text(["~", "a~/b", 3], "--real") == ["/home/someone", "a~/b", 3]


def test_commands_refuse_urls_and_find_home(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    for command in (
        ("make", "--n", 1, "--size", "64x64", "--out", "s3://bucket/x"),
        ("ingest", "https://x.org/slide.svs"),
        ("ingest", "--images", "s3://b/*.png"),
        ("verify", "ftp://host/x"),
    ):
        outcome = cli("factory", *command)
        assert outcome.code == 2
        assert "expected a path on this machine, got the URL" in outcome.err
    assert not list(tmp_path.iterdir())
