"""`factory quiz`: what the page shows and hides, the key, and how answers are scored."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from factory.core.statistics import wilson_interval
from factory.ingest.tiling import pad
from factory.quiz import quiz as quiz_module
from factory.quiz.key import Key, read_key
from factory.quiz.quiz import KEY, PAGE, Quiz, encode, make_quiz
from factory.quiz.report import markdown, verdict
from factory.quiz.scoring import (
    Confusion,
    Reader,
    Share,
    against_guessing,
    agreement,
    confusion,
    read_readers,
    score,
    tps_bin,
)
from factory.quiz.selection import choose, own_area
from factory.quiz.sources import Inputs, Source, open_inputs
from manifests import IGNORE, Dataset, UserError, open_dataset
from tests.conftest import Outcome, assert_refused, embedded_json, with_columns, write_dataset

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node runs the page's script")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real tiles, and synthetic ones of two sets, one of them larger."""
    folder = tmp_path_factory.mktemp("home")
    write_dataset(folder / "real", scheme="ihc", n=12)
    write_dataset(folder / "synth", scheme="ihc", n=6, source="synthetic", seed=1)
    write_dataset(folder / "large", scheme="nuclei", n=5, source="synthetic", size=(96, 128), seed=2)
    return folder


@pytest.fixture(scope="module")
def made(home: Path) -> Quiz:
    return make_quiz([home / "synth", home / "large"], [home / "real"], home / "quiz", n=10, split="all", seed=3)


def unseal(tile: dict[str, str]) -> str:
    """The page's own check, in Python."""
    words = ("real", "synthetic")
    (truth,) = (word for word in words if hashlib.sha256(f"{tile['salt']}:{word}".encode()).hexdigest() == tile["seal"])
    return truth


def answers_file(path: Path, key: Key, said: list[str], reader: str = "A") -> Path:
    entries = [{"tile": place + 1, "answer": answer, "seconds": 2.0} for place, answer in enumerate(said)]
    document = {"kind": "factory quiz answers", "version": 1, "quiz": key.quiz, "reader": reader, "answers": entries}
    path.write_text(json.dumps(document))
    return path


# ---- the page ----


def test_page_holds_the_pixels_of_the_tiles_that_the_key_names(home: Path, made: Quiz) -> None:
    key, data = read_key(made.key), embedded_json(made.page.read_text())
    assert made.shape == (64, 96)
    assert len(data["tiles"]) == len(key.tiles) == 10
    for shown, tile in zip(data["tiles"], key.tiles, strict=True):
        content = base64.b64decode(shown["picture"])
        assert hashlib.sha256(content).hexdigest() == tile.image_sha256
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.size, image.info) == ("PNG", (96, 64), {})
            pixels = np.asarray(image)
        dataset = open_dataset(home / tile.dataset)
        whole = dataset[dataset.find(tile.sample_id)].image
        assert np.array_equal(pixels, whole[tile.top : tile.top + 64, tile.left : tile.left + 96])


def test_seals_open_to_the_truth_and_half_the_tiles_are_real(made: Quiz) -> None:
    key, data = read_key(made.key), embedded_json(made.page.read_text())
    truths = [unseal(tile) for tile in data["tiles"]]
    assert truths == [tile.truth for tile in key.tiles]
    assert truths.count("real") == 5
    assert truths not in (sorted(truths), sorted(truths)[::-1])
    assert made.tiles == {("real", "real"): 5, ("synthetic", "synth"): 3, ("synthetic", "large"): 2}
    assert len({tile.salt for tile in key.tiles}) == 10


def test_nothing_in_the_page_names_a_tile_or_tells_the_kinds_apart_at_a_glance(made: Quiz) -> None:
    page = made.page.read_text()
    data = embedded_json(page)
    for tile in read_key(made.key).tiles:
        assert tile.sample_id not in page
        assert not tile.group_id or tile.group_id not in page
    assert {frozenset(tile) for tile in data["tiles"]} == {frozenset({"picture", "salt", "seal"})}
    assert {(len(tile["salt"]), len(tile["seal"])) for tile in data["tiles"]} == {(32, 64)}
    assert data["quiz"] == read_key(made.key).quiz


def test_page_loads_nothing_runs_only_its_own_script_and_says_what_it_contains(made: Quiz) -> None:
    page = made.page.read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//|@import|url\(|fetch\(|XMLHttp|WebSocket""", page)
    assert "<footer>Contains synthetic images, not for diagnosis.</footer>" in page
    assert embedded_json(page)["licences"] == ["test"]
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert "default-src 'none'" in policy[1]
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        text = page.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy[1]


def test_same_seed_gives_the_same_bytes_and_another_gives_another_quiz(home: Path, made: Quiz, tmp_path: Path) -> None:
    sets = [home / "synth", home / "large"], [home / "real"]
    again = make_quiz(*sets, tmp_path / "again", n=10, split="all", seed=3)
    assert again.page.read_bytes() == made.page.read_bytes()
    assert again.key.read_bytes() == made.key.read_bytes()
    other = make_quiz(*sets, tmp_path / "other", n=10, split="all", seed=4)
    assert read_key(other.key).quiz != read_key(made.key).quiz


def test_all_pictures_become_jpeg_where_png_is_too_large(
    home: Path, made: Quiz, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = open_inputs([home / "synth"], [home / "real"], n=8, split="all")
    crops = choose(inputs, 8, 0).crops
    monkeypatch.setattr(quiz_module, "MOST_PNG_BYTES", 30_000)
    pictures = encode(crops)
    assert pictures.encoding == "jpeg"
    for file, crop in zip(pictures.files, crops, strict=True):
        with Image.open(io.BytesIO(file)) as image:
            assert image.format == "JPEG"
            assert not image.getexif()
            assert np.abs(np.asarray(image).astype(int) - crop.image).mean() < 6


# ---- which tiles ----


def inputs_of(home: Path, real: Dataset, shape: tuple[int, int]) -> Inputs:
    synthetic = Source("synthetic", "synth", open_dataset(home / "synth"))
    return Inputs((synthetic,), (Source("real", "real", real),), shape, 0.5)


def test_patients_take_turns(home: Path) -> None:
    inputs = open_inputs([home / "synth"], [home / "real"], n=12, split="all")
    groups = [crop.group_id for crop in choose(inputs, 12, 5).crops if crop.truth == "real"]
    assert sorted(groups) == sorted(["real-slide-0", "real-slide-1", "real-slide-2"] * 2)


def test_no_two_crops_of_one_image_overlap(home: Path) -> None:
    places = {
        "source_x": [24 * (place % 4) for place in range(12)],
        "source_y": [16 * (place // 4) for place in range(12)],
    }
    real = with_columns(open_dataset(home / "real"), source_uri=["a.png"] * 12, **places)
    inputs = inputs_of(home, real, (32, 32))  # an image of 168 x 96 pixels, covered by overlapping tiles of 96 x 64
    chosen = choose(inputs, 8, 0)
    assert not chosen.notes
    corners = []
    for crop in chosen.crops:
        if crop.truth == "real":
            row = real.row(real.find(crop.sample_id))
            corners.append((row["source_y"] + crop.top, row["source_x"] + crop.left))
    for place, (y, x) in enumerate(corners):
        assert all(abs(y - above) >= 32 or abs(x - left) >= 32 for above, left in corners[:place])


def test_tiles_of_the_same_place_are_the_last_choice_and_a_note_says_so(home: Path) -> None:
    nothing = [0] * 12
    real = with_columns(open_dataset(home / "real"), source_uri=["a.png"] * 12, source_x=nothing, source_y=nothing)
    chosen = choose(inputs_of(home, real, (64, 96)), 6, 0)
    assert chosen.notes == ("2 real tiles with little tissue, or with tissue that another tile shows too",)


@pytest.mark.parametrize("own", [(40, 64), (40, 50), (64, 50), (64, 64), (20, 9)])
def test_mirrored_margins_of_ingest_are_found(own: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image, labels = rng.integers(0, 256, (*own, 3), np.uint8), rng.integers(0, 2, own, np.uint8)
    labels[-5:] = IGNORE  # unlabelled, but of the image itself
    padded, semantic, _ = pad(image, labels, np.zeros(own, np.int32), (64, 64))
    assert own_area(padded, semantic) == own


def test_tiles_of_mirrored_pixels_are_refused(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = open_inputs([home / "synth"], [home / "real"], n=6, split="all")
    monkeypatch.setattr("factory.quiz.selection.own_area", lambda image, semantic: (64, 50))
    with pytest.raises(UserError, match=r"--real .*expected 3 tiles with 64x96 pixels of their own, got 0"):
        choose(inputs, 6, 0)


def test_tps_is_that_of_the_piece_shown(home: Path, made: Quiz) -> None:
    for tile in read_key(made.key).tiles:
        assert (tile.tps is None) == (tile.dataset == "large")  # its scheme knows no tumour
    dataset = open_dataset(home / "synth")
    whole = [tile for tile in read_key(made.key).tiles if tile.dataset == "synth"]
    assert [tile.tps for tile in whole] == [dataset.row(dataset.find(tile.sample_id))["tps_cells"] for tile in whole]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": 7}, r"--n: expected an even number"),
        ({"n": 40}, r"--real: expected at least 20 real tiles for --n 40, got 12\. Lower --n"),
        ({"n": 10, "split": "val"}, r"--real: .* --split all"),
        ({"size": (64, 128)}, r"real: expected tiles of at least 64x128 pixels, got 64x96"),
        ({"size": (16, 16)}, r"--size: expected at least 32"),
        ({"real": ["synth"], "synthetic": ["large"]}, r"--real .*synth: expected real tiles, got synthetic"),
        ({"synthetic": ["real"], "real": ["other"]}, r"SYNTH .*real: expected synthetic tiles, got real"),
        ({"synthetic": ["synth", "../home/synth"]}, r"every data set once"),
        ({"synthetic": ["coarse"]}, r"coarse: expected 0\.5 um per pixel as the real tiles have, got 0\.52"),
        ({"synthetic": ["seen"]}, r"seen: expected tiles of a generator that never saw .*'real-slide-1'"),
        ({"synthetic": ["absent"]}, r"absent: expected a data set"),
    ],
)
def test_what_gives_no_blind_test_is_refused(tmp_path: Path, home: Path, change: dict[str, Any], said: str) -> None:
    root = tmp_path / "home"
    root.mkdir()
    for name in ("real", "synth", "large"):
        (root / name).symlink_to(home / name)
    named = [*change.get("synthetic", []), *change.get("real", [])]
    if "other" in named:
        write_dataset(root / "other", n=4)
    if "coarse" in named:
        write_dataset(root / "coarse", source="synthetic", mpp=0.52)
    if "seen" in named:
        (root / "seen").symlink_to(home / "synth")
    options = {"n": 4, "split": "all", "synthetic": ["synth"], "real": ["real"]} | change
    synthetic, real = ([root / name for name in options.pop(role)] for role in ("synthetic", "real"))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=said):
        if "seen" in named:
            patch.setattr(Source, "groups", property(lambda self: {"real-slide-1"}))
        make_quiz(synthetic, real, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_resolutions_within_the_tolerance_are_taken(tmp_path: Path, home: Path) -> None:
    write_dataset(tmp_path / "near", source="synthetic", mpp=0.509)
    assert open_inputs([tmp_path / "near"], [home / "real"], n=4, split="all").mpp == 0.5


def test_an_earlier_quiz_is_replaced_only_when_told_and_answers_stay(home: Path, tmp_path: Path) -> None:
    sets = [home / "synth"], [home / "real"]
    out = tmp_path / "quiz"
    first = read_key(make_quiz(*sets, out, n=4, split="all").key)
    (out / "answers-A.json").write_text("{}")
    (out / "scores.md").write_text("of the first")
    with pytest.raises(UserError, match="got one in it"):
        make_quiz(*sets, out, n=6, split="all")
    second = read_key(make_quiz(*sets, out, n=6, split="all", overwrite=True).key)
    assert first.quiz != second.quiz
    assert sorted(path.name for path in out.iterdir()) == ["answers-A.json", KEY, PAGE]
    (out / "stranger").touch()
    with pytest.raises(UserError, match="stranger"):
        make_quiz(*sets, out, n=6, split="all", overwrite=True)


# ---- figures ----


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (3, 7), (20, 40), (29, 40), (0, 40), (12, 301)])
def test_interval_and_test_are_those_of_scipy(count: int, total: int) -> None:
    from scipy.stats import binomtest

    oracle = binomtest(count, total)
    assert wilson_interval(count, total) == pytest.approx(tuple(oracle.proportion_ci(method="wilson")), abs=1e-12)
    assert against_guessing(count, total) == pytest.approx(oracle.pvalue, abs=1e-9)


def test_confusion_and_its_figures_by_hand() -> None:
    table = confusion(["real"] * 4 + ["synthetic"] * 6, ["real"] * 3 + ["synthetic"] * 3 + ["real"] * 4)
    assert table == Confusion(3, 1, 4, 2)
    assert (table.accuracy, table.sensitivity, table.specificity) == (Share(5, 10), Share(2, 6), Share(3, 4))
    assert table.p_value == 1.0
    assert Confusion(5, 0, 0, 5).p_value == 2 / 1024
    assert Share(0, 0).value is None
    assert Share(0, 0).interval is None


def test_kappa_by_hand_and_without_variation() -> None:
    one, other = ["real", "real", "synthetic", "synthetic"], ["real", "synthetic", "synthetic", "synthetic"]
    found = agreement("A", one, "B", other)  # type: ignore[arg-type]
    assert found.same == Share(3, 4)
    assert found.kappa == pytest.approx((0.75 - 0.5) / (1 - 0.5))
    assert agreement("A", one, "B", one).kappa == 1  # type: ignore[arg-type]
    assert agreement("A", ["real"] * 3, "B", ["real"] * 3).kappa is None


@pytest.mark.parametrize(
    ("tps", "name"),
    [(None, "no TPS"), (0.0, "TPS below 1 %"), (0.01, "TPS 1 % to below 50 %"), (0.5, "TPS 50 % and above")],
)
def test_tps_is_binned_at_the_clinical_cuts(tps: float | None, name: str) -> None:
    assert tps_bin(tps) == name


@pytest.mark.parametrize(("right", "said"), [(38, "more often"), (20, "no difference"), (2, "wrong way round")])
def test_verdict_claims_no_more_than_the_interval_shows(right: int, said: str) -> None:
    assert said in verdict(Reader("A", (), ()), Share(right, 40))


# ---- scoring ----


def test_readers_are_scored_by_generator_and_tps_and_held_against_each_other(made: Quiz, tmp_path: Path) -> None:
    key = read_key(made.key)
    truths = [tile.truth for tile in key.tiles]
    perfect = answers_file(tmp_path / "a.json", key, list(truths), "A")
    always = answers_file(tmp_path / "b.json", key, ["real"] * 10, "B | C")
    scores = score(key, read_readers([perfect, always], key))
    assert scores.tables == (Confusion(5, 0, 0, 5), Confusion(5, 0, 5, 0))
    assert scores.mean_accuracy == 0.75
    by_generator = {part.name: part.right for part in scores.parts if part.by == "generator"}
    assert by_generator == {
        "real (tests)": (Share(5, 5), Share(5, 5)),
        "synth (tests)": (Share(3, 3), Share(0, 3)),
        "large (tests)": (Share(2, 2), Share(0, 2)),
    }
    assert sum(part.right[0].total for part in scores.parts if part.by == "TPS") == 10
    assert [(one.same, one.kappa) for one in scores.agreements] == [(Share(5, 10), 0.0)]
    text = markdown(scores)
    assert "B \\| C" in text
    assert "not for diagnosis" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quiz": "0" * 64}, "expected answers to quiz .*, got those to 000000000000"),
        ({"kind": "factory quiz key"}, "expected a file with kind 'factory quiz answers'"),
        ({"version": 2}, "expected version 1, got 2"),
        ({"reader": " "}, "reader: expected a name"),
        ({"reader": None}, "reader: expected a name"),
        ({"answers": []}, "expected one for every tile from 1 to 10"),
        ({"answers": "real"}, "answers: expected a list"),
        ({"answers": [{"tile": place, "answer": "real"} for place in range(10)]}, "expected one for every tile"),
        (
            {"answers": [{"tile": place, "answer": "fake"} for place in range(1, 11)]},
            "tile 1: answer: expected real or",
        ),
        ({"answers": [{"tile": place, "answer": None} for place in range(1, 11)]}, "tile 1: answer: .*'None'"),
        (
            {"answers": [{"tile": place, "answer": "real", "seconds": -1} for place in range(1, 11)]},
            "tile 1: seconds: expected 0 or more",
        ),
    ],
)
def test_answers_that_do_not_fit_are_refused(made: Quiz, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    key = read_key(made.key)
    path = answers_file(tmp_path / "a.json", key, ["real"] * 10)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=said):
        read_readers([path], key)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"kind": 3}'])
def test_files_that_are_no_answers_or_no_key_are_refused(made: Quiz, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json: expected"):
        read_readers([path], read_key(made.key))
    with pytest.raises(UserError, match=r"a\.json: expected"):
        read_key(path)


def test_one_reader_twice_is_refused(made: Quiz, tmp_path: Path) -> None:
    key = read_key(made.key)
    paths = [answers_file(tmp_path / name, key, ["real"] * 10) for name in ("a.json", "b.json")]
    with pytest.raises(UserError, match="expected every reader once, got 'A' again"):
        read_readers(paths, key)


@pytest.mark.parametrize("name", ["truth", "image_sha256", "salt"])
def test_a_changed_key_is_refused(made: Quiz, tmp_path: Path, name: str) -> None:
    document = json.loads(made.key.read_text())
    tile = document["tiles"][0]
    tile[name] = {"real": "synthetic", "synthetic": "real"}.get(tile[name], "00")
    (tmp_path / KEY).write_text(json.dumps(document))
    with pytest.raises(UserError, match="got a changed one"):
        read_key(tmp_path / KEY)


# ---- the command ----


def test_command_makes_a_quiz_and_scores_readers(home: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    done = cli(
        "factory", "quiz", home / "synth", "--real", home / "real", "--n", 8, "--split", "all", "--size", "48x64"
    )
    assert done.code == 0, done.err
    assert "8 tiles of 48x64: 4 real of real, 4 synthetic of synth" in done.out
    assert "contains real images under their licence (test)" in done.out
    folder = tmp_path / "runs/quiz"
    key = read_key(folder / KEY)
    truths = [tile.truth for tile in key.tiles]
    files = [
        answers_file(folder / "answers-A.json", key, list(truths), "A"),
        answers_file(folder / "answers-B.json", key, ["synthetic"] * 8, "B"),
    ]
    scored = cli("factory", "quiz", "--score", *files, "--key", folder / KEY)
    assert scored.code == 0, scored.err
    for word in ("8 of 8", "4 of 8", "Agreement", "no difference from guessing shown"):
        assert word in scored.out
    document = json.loads((folder / "scores.json").read_text())
    assert [reader["accuracy"]["count"] for reader in document["readers"]] == [8, 4]
    assert document["readers"][0]["p_against_guessing"] == 2 / 2**8
    assert document["agreement"][0]["kappa"] == 0
    assert (folder / "scores.md").read_text() == markdown(score(key, read_readers(files, key)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--score"], "--score: expected files of answers, got none"),
        (["--score", "a.json", "--n", 4], "--n: expected it when a quiz is made"),
        (["--score", "a.json"], r"--key runs/quiz/key.json: expected a file, got none"),
        (["--key", "key.json"], "--key: expected it with --score"),
        (["--size", "12x"], "--size: expected HEIGHTxWIDTH"),
        ([], "data/real: expected a data set"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(cli: Callable[..., Outcome], words: list[Any], said: str) -> None:
    assert_refused(cli("factory", "quiz", *words), said)


# ---- the page's script ----


def run_script(expression: str, **values: Any) -> Any:
    """Evaluates an expression over the page's `seal.js` in node."""
    script = resources.files("factory.quiz").joinpath("seal.js").read_text()
    text = f"{script}\nconst given = {json.dumps(values)};\nconsole.log(JSON.stringify({expression}));"
    done = subprocess.run([str(NODE), "-"], input=text, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@needs_node
def test_script_hashes_as_hashlib_does() -> None:
    texts = ["a:" * (length // 2) + "b" * (length % 2) for length in range(140)]
    found = run_script("given.texts.map(sha256)", texts=texts)
    assert found == [hashlib.sha256(text.encode()).hexdigest() for text in texts]


@needs_node
def test_script_opens_the_seals_and_counts_as_python_does(made: Quiz) -> None:
    key, data = read_key(made.key), embedded_json(made.page.read_text())
    tiles = [{name: tile[name] for name in ("salt", "seal")} for tile in data["tiles"]]
    answers = ["real", "synthetic"] * 5
    truths, counts = run_script(
        "[given.tiles.map(unseal), confusion(given.tiles.map(unseal), given.answers)]", tiles=tiles, answers=answers
    )
    table = confusion([tile.truth for tile in key.tiles], answers)  # type: ignore[arg-type]
    assert truths == [tile.truth for tile in key.tiles]
    assert counts["real"] == {"real": table.real_as_real, "synthetic": table.real_as_synthetic}
    assert counts["synthetic"] == {"real": table.synthetic_as_real, "synthetic": table.synthetic_as_synthetic}
    pairs = [(count, total) for total in (1, 7, 40) for count in range(total + 1)]
    found = run_script("given.pairs.map(([count, total]) => wilson(count, total))", pairs=pairs)
    assert np.allclose(found, [wilson_interval(count, total) for count, total in pairs], atol=1e-12)


@needs_node
def test_answers_saved_by_the_script_are_read(made: Quiz, tmp_path: Path) -> None:
    key, data = read_key(made.key), embedded_json(made.page.read_text())
    data["tiles"] = [0] * 10
    state = {"reader": "Ä", "answers": ["real"] * 10, "seconds": [1.26] * 10, "timed": True}
    saved = run_script("answersDocument(given.data, given.state)", data=data, state=state)
    (tmp_path / "a.json").write_text(json.dumps(saved))
    (reader,) = read_readers([tmp_path / "a.json"], key)
    assert (reader.name, reader.answers, reader.median_seconds) == ("Ä", ("real",) * 10, 1.3)
    saved = run_script("answersDocument(given.data, given.state)", data=data, state=state | {"timed": False})
    (tmp_path / "a.json").write_text(json.dumps(saved))
    assert read_readers([tmp_path / "a.json"], key)[0].median_seconds is None


@needs_node
def test_script_goes_on_with_its_own_state_and_with_no_other() -> None:
    data = {"quiz": "q", "tiles": [0, 0]}
    fresh = run_script("restore(null, given.data)", data=data)
    assert (fresh["answers"], fresh["place"], fresh["started"]) == ([None, None], 0, False)
    kept = fresh | {"reader": "A", "answers": ["real", None], "place": 1, "started": True}
    bad = ({"quiz": "p"}, {"answers": ["real"]}, {"place": 3}, {"seconds": [0, -1]})
    texts = [json.dumps(kept), "{", "null", *(json.dumps(kept | change) for change in bad)]
    early = json.dumps(kept | {"finished": True})
    found = run_script("given.texts.map((text) => restore(text, given.data))", data=data, texts=[*texts, early])
    assert found == [kept, *[fresh] * 6, kept]  # what is not answered is not finished


@needs_node
def test_whole_script_is_well_formed(made: Quiz, tmp_path: Path) -> None:
    script = tmp_path / "page.js"
    script.write_text(made.page.read_text().rsplit("<script>", 1)[1].split("</script>")[0])
    done = subprocess.run([str(NODE), "--check", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_element_that_the_script_asks_for_is_in_the_page() -> None:
    assets = resources.files("factory.quiz")
    script, page = (assets.joinpath(name).read_text() for name in ("page.js", "page.html"))
    wanted = set(re.findall(r'find\("([\w-]+)"\)', script))
    assert len(wanted) > 20
    assert wanted <= set(re.findall(r'\bid="([\w-]+)"', page))
