"""Every chain of docs/how-to/chains.md runs from its first command to its last, with tiny tiles and a few steps."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from skimage.data import immunohistochemistry

from manifests import open_dataset, verify
from tests.annotated_photograph import dark_bodies
from tests.conftest import Outcome, run_command
from tests.docs.pages import ROOT, CommandLine, sections
from tests.ingest_files import save
from tests.mask_training import COMMON, SMALL

pytestmark = pytest.mark.usefixtures("one_thread")

DATA, *CHAINS = sections(ROOT / "docs/how-to/chains.md").items()
SIDE, REAL_SIDE = 64, 96
SEGMENTER = (
    "--steps", "2", "--batch", "2", "--crop", "32x32", "--set", "network={name: unetplusplus}", "--device", "cpu",
    "--set", "validate_every=2", "--set", "warmup_steps=0", "--set", "threads=1",
)  # fmt: skip
LABELLER = ("--set", "members=1", "--set", "batch=64", "--steps", "2", "--set", "threads=1", "--device", "cpu")


def shrunk(words: tuple[str, ...]) -> list[str]:
    """The command with two tiles of 64x64, real ones of 96x96 of five patients, and small networks of few steps."""
    program, verb, *rest = words
    for option, value in {"--n": "2", "--size": f"{REAL_SIDE}x{REAL_SIDE}"}.items():
        if option in rest:
            rest[rest.index(option) + 1] = value
    more: tuple[str, ...] = ()
    if program == "segment":
        more = SEGMENTER if verb == "train" else ()
    elif verb == "ingest":
        more = ("--split", "0.6,0.2,0.2", "--workers", "1")
    elif verb == "train" and rest[0] == "hdgan":
        more = LABELLER
    elif verb == "train":
        small = {**COMMON, **SMALL.get(rest[0], {}), "steps": 2, "look_every": 2}
        small.pop("condition", None)  # that of the page or the preset
        more = tuple(word for key, value in small.items() for word in ("--set", f"{key}={json.dumps(value)}"))
    elif verb == "make" and "--joint" not in rest:
        more = ("--size", f"{SIDE}x{SIDE}", *(("--set", "renderer.patch_px=48") if "exemplar" in rest else ()))
    elif verb == "sketches":
        more = ("--size", f"{SIDE}x{SIDE}")
    at = 0 if rest[0].startswith("-") else 1
    return [program, verb, *rest[:at], *more, *rest[at:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Sources and drawings of five patients, and the data sets of the page's first section."""
    root, photograph, rng = tmp_path_factory.mktemp("chains"), immunohistochemistry(), np.random.default_rng(0)
    for stem in "abcde":
        y, x = rng.integers(0, 512 - REAL_SIDE, 2)
        image = photograph[y : y + REAL_SIDE, x : x + REAL_SIDE].copy()
        save(root / "nuclei/images" / f"{stem}.png", image)
        save(root / "nuclei/instances" / f"{stem}.png", dark_bodies(image))
        image[:20, :30] = 250
        save(root / "ki67/images" / f"{stem}.png", image)
        save(
            root / "ki67/roi" / f"{stem}.png",
            np.pad(np.full((REAL_SIDE, REAL_SIDE - 20), 255, np.uint8), ((0, 0), (0, 20))),
        )
        marks = [f"{x},{y},{('positive', 'negative')[(x + y) % 2]}" for x, y in rng.integers(30, 44, (8, 2)).tolist()]
        (root / "ki67/cells").mkdir(exist_ok=True)
        (root / "ki67/cells" / f"{stem}.csv").write_text("\n".join(["x,y,class", *marks]))
    drawing = np.full((REAL_SIDE, REAL_SIDE), 255, np.uint8)
    drawing[16:48, 8:40] = 0
    save(root / "my-drawings/a.png", drawing)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for line in DATA[1]:
            assert run_command(*shrunk(line.words)) == 0
    yield root
    shutil.rmtree(root)


def draw_in_labelme(folder: Path) -> None:
    """Outline the whole image as stroma, and tumour of both kinds in it."""
    for path in folder.glob("*.json"):
        document = json.loads(path.read_text())
        if "shapes" in document:
            boxes = {"other": [0, 64, 32], "Ki-67 negative": [0, 32, 32], "Ki-67 positive": [32, 64, 16]}
            document["shapes"] = [
                {"label": label, "shape_type": "rectangle", "points": [[left, 0], [right, bottom]]}
                for label, (left, right, bottom) in boxes.items()
            ]
            path.write_text(json.dumps(document))


@pytest.mark.parametrize(("title", "lines"), CHAINS, ids=[title for title, _ in CHAINS])
def test_a_chain_runs(
    title: str, lines: list[CommandLine], folder: Path, cli: Callable[..., Outcome],
    small_network: None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    for line in lines:
        if line.words[:3] == ("factory", "annotate", "import"):
            draw_in_labelme(folder / line.words[3])
        done = cli(*shrunk(line.words))
        assert done.code == 0, f"{line}\n{done.err}"
        if line.words[:2] == ("factory", "make"):
            made = folder / line.words[line.words.index("--out") + 1]
            assert verify(made) == []
            assert len(open_dataset(made)) == 2
