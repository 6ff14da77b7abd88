"""Every command and option has help; every shipped config loads; generated pages are complete; examples run."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import generate
import pytest
import yaml
from config_roots import ROOTS

import manifests
from factory.core.config import parse
from factory.core.registry import resolve
from factory.core.shipped import configs_dir
from factory.joint import FITTED
from factory.joint.labeller import LabellerConfig
from factory.make.recipes.masks_and_renderer import MasksAndRenderer
from factory.make.resolve import resolve_make
from factory.masks import MASKS
from factory.plan.rows import load_scheme
from factory.renderers import RENDERERS
from factory.train.generator import resolve_trainer, trainer_class, trainers
from factory.train.labeller import LabellerRunConfig, resolve_labeller
from manifests import SCHEMA, SCHEMES
from tests.conftest import Outcome, write_dataset
from tests.docs.pages import ROOT, blocks, paths

TABLES = generate.table_pages()
COMMANDS = list(generate.commands())


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_command_and_option_has_help_and_stands_on_its_page(name: str, command: object) -> None:
    assert command.help  # type: ignore[attr-defined]
    page = generate.command_pages()[f"commands/{name.replace(' ', '-')}.md"]
    assert f"# `{name}`" in page
    for parameter in command.params:  # type: ignore[attr-defined]
        if parameter.name != "help":
            assert parameter.help, f"{name} {parameter.name}"
            if parameter.param_type_name == "option":
                assert f"{parameter.opts[0]}" in page


@pytest.mark.parametrize("option", ["--tps", "--tissue", "--cells", "--tumour", "--inflammation", "--size", "--mpp"])
def test_defaults_in_the_help_are_those_of_the_configs(cli: Callable[..., Outcome], option: str) -> None:
    text = " ".join(cli("factory", "make", "--help").out.split())
    said = text.split(f"{option} <", 1)[1].split("[default: ", 1)[1].split("]", 1)[0]
    for name in ("pdl1", "ihc", "nuclei", "tissue"):
        plan = yaml.safe_load((configs_dir() / "plan" / f"{name}.yaml").read_text())["plan"]
        value = plan.get(option.removeprefix("--"))
        if value is not None:
            shown = "x".join(map(str, value)) if isinstance(value, list) else str(value)
            assert re.search(rf"(?<![\d.]){re.escape(shown)}(?![\d.])", said), (name, shown, said)


@pytest.mark.parametrize("path", sorted((configs_dir() / "plan").glob("*.yaml")), ids=lambda path: path.name)
def test_every_scheme_has_a_plan_that_resolves(path: Path) -> None:
    config, scheme = resolve_make({}, {}, path, [])
    assert path.stem == scheme.name
    assert scheme.name in SCHEMES
    MasksAndRenderer.from_document(config.model_dump(mode="json"), scheme=scheme)


@pytest.mark.parametrize("path", sorted((configs_dir() / "render").glob("*.yaml")), ids=lambda path: path.name)
def test_every_render_config_resolves(path: Path) -> None:
    config, scheme = resolve_make({}, {}, path, [])
    MasksAndRenderer.from_document(config.model_dump(mode="json"), scheme=scheme)


@pytest.mark.parametrize("path", sorted((configs_dir() / "segment").glob("*.yaml")), ids=lambda path: path.name)
def test_every_segment_config_resolves(path: Path) -> None:
    from segment.train.config import TrainConfig

    parse(TrainConfig, yaml.safe_load(path.read_text()), path.name)


@pytest.mark.parametrize("path", sorted((configs_dir() / "schemes").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_scheme_loads_and_a_page_names_it(path: Path) -> None:
    scheme = load_scheme(str(path))
    assert scheme.name == path.stem
    assert scheme.reads_as(SCHEMES["tissue"])
    assert any(f"configs/schemes/{path.name}" in page.read_text() for page in paths())


SHARED = {"cyclegan": "masks/cyclegan", "cyclegan_images": "renderers/cyclegan"}
"""How the configs of the trainers are called whose name is in both tables."""


@pytest.mark.parametrize("path", sorted((configs_dir() / "train").glob("*.yaml")), ids=lambda path: path.name)
def test_every_training_config_resolves(path: Path) -> None:
    starts = [name for name in (*trainers(), *SHARED, *FITTED) if path.stem == name or path.stem.startswith(f"{name}_")]
    name = max(starts, key=len)
    config = LabellerRunConfig if name in FITTED else trainer_class(SHARED.get(name, name)).Config
    parse(config, yaml.safe_load(path.read_text()), path.name)


def test_hdgan_is_configured_as_published() -> None:
    config, published = resolve_labeller("hdgan", [], {}, "cpu"), LabellerConfig().model_dump()
    assert {name: value for name, value in config.model_dump().items() if name in published} == published
    assert config.blocks == 5


OTHER_PAPERS = {"sharpgan": ((256, 256), 150, 1e-4, 0.5), "stylegan2": ((512, 512), 100, 2.5e-3, 0.0)}
"""Size, epochs, learning rate and beta1 of papers that state others than most; stylegan2 counts steps and no epochs."""


@pytest.mark.parametrize("name", trainers())
def test_every_trainer_has_the_papers_configuration_and_a_light_one(name: str) -> None:
    paper, light = (resolve_trainer(name, None, [], {"precision": "fp32"}, device) for device in ("cuda", "cpu"))
    is_renderer, is_joint = (trainer_class(name).kind == f"{part}-weights" for part in ("renderer", "joint"))
    others = ((512, 1024), 200 if is_renderer else 100, 2e-4, 0.5)
    assert (paper.size, paper.epochs, paper.learning_rate, paper.beta1) == OTHER_PAPERS.get(name, others)
    assert max(light.size) <= 256 if is_renderer or is_joint else light.size == (128, 256)
    assert light.learning_rate == (paper.learning_rate if is_joint else 2e-4)
    shipped = [config for config, trainer in SHARED.items() if trainer == name] or [name]
    assert f"| `{shipped[0]}` |" in TABLES["tables/presets.md"]


def test_pix2pixhd_has_the_constants_of_its_authors_and_those_of_the_noise_paper() -> None:
    def constants(config: str) -> tuple[object, ...]:
        values: dict[str, Any] = resolve_trainer("pix2pixhd", config, [], {}, "cpu").model_dump()
        network, loss = values["network"], values["loss"]
        assert (network["width"], network["downs"], network["blocks"], network["norm"]) == (64, 4, 9, "instance")
        assert (values["discriminators"], values["discriminator_width"], values["discriminator_depth"]) == (2, 64, 3)
        return (
            values["epochs"],
            values["decay_epochs"],
            values["discriminator_loss"],
            values["fooling"],
            loss["feature"],
        )

    assert constants("pix2pixhd") == (200, 100, "lsgan", "lsgan", 10)
    assert constants("pix2pixhd_paper") == (700, 200, "lsgan", "bce", 2)


def test_pix2pix_has_its_own_weights_and_those_of_priorpaths_text() -> None:
    def loss(config: str) -> tuple[object, ...]:
        values: Any = resolve_trainer("priorpath", config, [], {}, "cpu")
        return values.adversarial, values.discriminator_loss, values.loss.model_dump()

    pix2pix = {"adversarial": 1, "l1": 100, "feature": 0, "mean_prediction": 0}
    assert loss("priorpath") == ("bce", None, pix2pix)
    assert loss("priorpath_paper") == ("bce", "lsgan", pix2pix | {"l1": 0, "feature": 4})


@pytest.mark.parametrize("name", ["depas", "dcgan", "priorpath", "masks/cyclegan", "pix2pix", "pix2pixhd", "sharpgan"])
def test_published_presets_keep_the_last_weights(name: str) -> None:
    assert resolve_trainer(name, None, [], {"precision": "fp32"}, "cuda").ema == 0


@pytest.mark.parametrize(("name", "config"), [
    ("pix2pixhd", "pix2pixhd"), ("pix2pixhd", "pix2pixhd_paper"), ("priorpath", "priorpath_paper"),
])  # fmt: skip
def test_discriminators_are_those_of_pix2pixhds_code(name: str, config: str) -> None:
    values: Any = resolve_trainer(name, config, [], {}, "cpu")
    found = (
        values.discriminators,
        values.discriminator_padding,
        values.discriminator_pooling,
        values.sum_discriminators,
    )
    assert found == (2, 2, 3, True)


@pytest.mark.parametrize(("table", "name"), [(t, n) for t in (MASKS, RENDERERS) for n in t])
def test_every_name_in_a_table_resolves_and_stands_in_the_reference(table: dict[str, str], name: str) -> None:
    assert resolve(table, name, "part").Config()
    assert f"| `{name}` |" in TABLES["tables/masks.md" if table is MASKS else "tables/renderers.md"]


@pytest.mark.parametrize("name", ["train", "compare"])
def test_shipped_configs_of_segment_stand_in_the_help_and_on_the_page_of_the_task(name: str) -> None:
    command = dict(COMMANDS)[f"segment {name}"]
    (said,) = (parameter.help for parameter in command.params if parameter.name == "config")
    shipped = {path.stem for path in (configs_dir() / {"train": "segment"}.get(name, name)).glob("*.yaml")}
    assert shipped <= set(re.findall(r"\w+", said))
    page = (ROOT / f"docs/how-to/{name}.md").read_text()
    assert shipped <= set(re.findall(r"`(\w+)`", page))


def test_the_table_of_presets_names_those_whose_tiles_are_multiples_of_256() -> None:
    files = [*(configs_dir() / "train").glob("*pix2pix*.yaml"), *(configs_dir() / "train").glob("sharpgan*.yaml")]
    presets = {path.stem: yaml.safe_load(path.read_text()) for path in files}
    shapes = {name: values.get("unet", values.get("network", {})) for name, values in presets.items()}
    deep = {name for name, shape in shapes.items() if shape.get("depth") == 8}
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", TABLES["tables/presets.md"], re.MULTILINE))
    assert deep == {name for name in presets if rows[name] == "256"}
    assert deep


def test_the_reference_names_every_column_scheme_class_and_key() -> None:
    columns = TABLES["tables/columns.md"]
    for name in SCHEMA.names:
        assert f"| `{name}` |" in columns, name
    for scheme in SCHEMES.values():
        section = TABLES["tables/schemes.md"].split(f"`{scheme.name}`\n", 1)[1].split("\n###")[0]
        for label in scheme.classes:
            assert f"| {label.id} | {label.name} |" in section
    pages = "".join(generate.configuration_pages().values())
    for _, _, roots in ROOTS.values():
        for heading, model in roots():
            assert f"## {heading}" in pages
            for name in model.model_fields:
                assert f"`{name}" in pages, f"{heading}: {name}"


READERS = blocks(ROOT / "docs/how-to/read-data-sets.md", "python")


@pytest.mark.parametrize("example", READERS, ids=lambda text: text.split()[1])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_readers_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], example: str
) -> None:
    library = example.split()[1].partition(".")[0]
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    write_dataset(tmp_path / "data/synth", scheme="pdl1", source="synthetic", size=(32, 64))
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "read-data-sets.md", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    "page", ["start/first-data-set", "start/ten-images", "how-to/plans", "how-to/score", "reference/metrics"]
)
@pytest.mark.usefixtures("narrow_features")
def test_other_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    write_dataset(tmp_path / "data/first", scheme="pdl1", source="synthetic", size=(32, 64))
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(ROOT / f"docs/{page}.md", "python")
    names: dict[str, Any] = {}
    exec(compile(example, page, "exec"), names)
    assert names


def test_the_small_distribution_needs_only_what_it_says() -> None:
    document = tomllib.loads((Path(manifests.__file__).parent / "pyproject.toml").read_text())
    names = {re.split(r"[>=<]", dependency)[0] for dependency in document["project"]["dependencies"]}
    assert names == {"numpy", "pyarrow", "zarr"}
    script = "import sys, manifests; print({'torch', 'cv2', 'numba', 'scipy', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
