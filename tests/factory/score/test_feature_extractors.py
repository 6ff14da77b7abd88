"""The table of feature extractors: what each refuses, and that a picture's features depend on nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from factory.score import features
from factory.score.features import EXTRACTORS, check_extractor, extract, open_extractor
from factory.score.pretrained import Normalised
from manifests.errors import FaultError, UserError

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = "test_resnet"


def pictures(count: int = 5, shape: tuple[int, int] = (32, 64)) -> np.ndarray:
    return (np.random.default_rng(0).random((count, *shape, 1)) < 0.5).astype(np.uint8).repeat(3, 3) * 255


def tiny_file(path: Path, **more: torch.Tensor) -> Path:
    import timm

    network = timm.create_model(TINY, pretrained=False, num_classes=0)
    save_file({**{name: value.contiguous() for name, value in network.state_dict().items()}, **more}, path)
    return path


@pytest.mark.parametrize(("name", "count"), [("random-vgg16", 64), ("random-vgg16-pooled", 1472)])
def test_random_features_are_the_same_every_time_and_in_every_batch(name: str, count: int) -> None:
    first = extract(open_extractor(name), pictures(), batch=5)
    open_extractor(name).known.clear()
    again = extract(open_extractor(name), pictures(), batch=2)
    assert first.shape == (5, count)
    assert first.dtype == np.float64
    np.testing.assert_allclose(first, again, rtol=1e-4, atol=1e-4)
    assert len(np.unique(first, axis=0)) == 5


def test_only_the_features_of_the_fid_may_be_called_fid() -> None:
    extractor = open_extractor("random-vgg16")
    assert extractor.distance == "Frechet distance (random-vgg16)"
    assert extractor.sha256 is None


def test_progress_counts_pictures_and_those_seen_before_are_not_run_again() -> None:
    done: list[int] = []
    extractor = open_extractor("random-vgg16")
    extractor.known.clear()
    first = extract(extractor, pictures(), batch=2, on_pictures=done.append)
    assert done == [0, 2, 2, 1]
    np.testing.assert_array_equal(extract(extractor, pictures()[::-1], on_pictures=done.append), first[::-1])
    assert done[4:] == [5]  # nothing was new


def test_an_encoder_of_timm_takes_its_file_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tiny_file(tmp_path / "e.safetensors")
    extractor = open_extractor(f"timm:{TINY}", path)
    assert extractor.distance == f"Frechet distance (timm:{TINY})"
    assert extractor.sha256 is not None
    assert len(extractor.sha256) == 64
    assert extract(extractor, pictures()).shape[0] == 5
    with_head = tiny_file(tmp_path / "h.safetensors", **{"fc.weight": torch.zeros(3, 4)})
    np.testing.assert_array_equal(
        extract(extractor, pictures(1)).shape, extract(open_extractor(f"timm:{TINY}", with_head), pictures(1)).shape
    )
    other = tiny_file(tmp_path / "o.safetensors", **{"layer9.weight": torch.zeros(3)})
    with pytest.raises(UserError, match=r"expected weights of timm:test_resnet, .* differs at layer9.weight"):
        open_extractor(f"timm:{TINY}", other)
    with pytest.raises(UserError, match="expected an encoder that timm has"):
        open_extractor("timm:no_such_net", path)


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("random-vgg61", None, "--features: expected one of .* Did you mean random-vgg16"),
        ("timm:resnet18", None, "expected --feature-weights with a safetensors file, got none"),
        ("random-vgg16", "w", "expected none with random-vgg16"),
        ("inception", "pickle", "expected safetensors, got a pickle"),
        ("resnet50", "missing", "expected a safetensors file, got: No such file"),
    ],
)
def test_extractors_refuse_in_one_line(tmp_path: Path, name: str, weights: str | None, said: str) -> None:
    (tmp_path / "pickle").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(UserError, match=said):
        check_extractor(name, tmp_path / weights if weights else None)


def test_inception_needs_its_own_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected Inception v3 with its layer fc"):
        open_extractor("inception", tiny_file(tmp_path / "e.safetensors"))


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **options: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("factory.score.features._open", features._open.__wrapped__)
    for name in ("resnet50", "inception"):
        with pytest.raises(FaultError, match=r"got no route\. Download a safetensors file elsewhere"):
            open_extractor(name)


@pytest.mark.slow
@pytest.mark.parametrize(("outputs", "name"), [(1008, "FID"), (1000, "not the FID's weights")])
def test_inception_is_torch_fidelitys_with_the_fids_weights_and_no_fid_with_others(
    tmp_path: Path, outputs: int, name: str
) -> None:
    from torchvision.models.inception import Inception3

    torch.manual_seed(0)
    network = Inception3(num_classes=outputs, aux_logits=False, init_weights=False)
    path = tmp_path / "inception.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    extractor = open_extractor("inception", path)
    assert name in extractor.distance
    found = extract(extractor, pictures(2, (299, 299)))
    assert found.shape == (2, 2048)
    if outputs == 1008:
        module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
        torch.save(network.state_dict(), tmp_path / "w.pth")
        theirs = module.FeatureExtractorInceptionV3("inception", ["2048"], str(tmp_path / "w.pth"))
        # They take (x - 128) / 128 of grey levels, we (x / 255 - 0.5) / 0.5: half a grey level.
        expected = theirs(torch.from_numpy(pictures(2, (299, 299))).permute(0, 3, 1, 2))[0].numpy()
        np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.01)


def test_normalisation_resizes_only_where_a_network_needs_it() -> None:
    sizes: list[tuple[int, ...]] = []

    class Record(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(tuple(x.shape))
            return x.mean((2, 3))

    values = torch.full((1, 3, 20, 30), 0.75)
    for size in (None, (16, 16)):
        out = Normalised(Record(), [0.5] * 3, [0.5] * 3, size)(values)
        np.testing.assert_allclose(out, 0.5, atol=1e-6)
    assert sizes == [(1, 3, 20, 30), (1, 3, 16, 16)]


def test_every_name_in_the_table_is_documented_by_its_function() -> None:
    for target in EXTRACTORS.values():
        module, _, attribute = target.partition(":")
        assert getattr(__import__(module, fromlist=[attribute]), attribute).__doc__
