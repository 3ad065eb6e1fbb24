"""The network, its backbones and their weights."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from models.backbones import build_network, weights_from_file
from models.lib_network import LIBNetwork
from utils.errors import InputError


@pytest.mark.parametrize(
    ("model", "size", "width"),
    [("resnet", 32, 512), ("mobilenet", 32, 1024), ("efficientnet", 32, 1792), ("vit_tiny_patch16_224", 48, 192)],
)
def test_backbones(model: str, size: int, width: int) -> None:
    network = build_network(model, 2, size).eval()
    with torch.inference_mode():
        outputs = network(torch.randn(3, 3, size, size))
    assert network.baseline_linear.in_features == 2 * width
    assert outputs.fused.shape == outputs.all.shape == (3, 2)
    assert [logits.shape for logits in outputs.leave_one_out] == [(3, 2)] * 2


def test_building_a_network_leaves_its_statistics() -> None:
    for backbone in build_network("mobilenet", 2, 32).backbones():
        norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
        assert norms
        assert all(norm.num_batches_tracked == 0 and not norm.running_mean.any() for norm in norms)


def test_efficientnet_is_b4() -> None:
    own = build_network("efficientnet", 1, 32).region_model1
    b4 = timm.create_model("efficientnet_b4", num_classes=0)
    assert {k: v.shape for k, v in own.state_dict().items()} == {k: v.shape for k, v in b4.state_dict().items()}


def test_mobilenet_has_relu_and_timms_mobilenetv1_has_relu6() -> None:
    def activations(model: str) -> set[type]:
        kinds = (nn.ReLU, nn.ReLU6)
        return {type(m) for m in build_network(model, 1, 32).region_model1.modules() if isinstance(m, kinds)}

    assert activations("mobilenet") == {nn.ReLU}
    assert activations("mobilenetv1_100") == {nn.ReLU6}


class Pixel(nn.Module):
    """A backbone that returns one pixel times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.factor * images[:, :1, 0, 0]


def test_input_of_each_head() -> None:
    network = LIBNetwork([Pixel(1.0), Pixel(10.0), Pixel(100.0)], num_features=1).eval()
    for i in (1, 2, 3):
        nn.init.ones_(getattr(network, f"local_linear{i}").weight)
        nn.init.zeros_(getattr(network, f"local_linear{i}").bias)
    nn.init.ones_(network.baseline_linear.weight)
    nn.init.zeros_(network.baseline_linear.bias)
    outputs = network(torch.ones(1, 3, 1, 1))
    assert outputs.all[0, 0].item() == 111
    assert [logits[0, 0].item() for logits in outputs.leave_one_out] == [110, 101, 11]


def test_one_lib_has_no_leave_one_out_head() -> None:
    network = build_network("mobilenet", 1, 32)
    assert network(torch.randn(2, 3, 32, 32)).leave_one_out == []
    assert not any(key.startswith("local_linear") for key in network.state_dict())


def test_libs_have_their_own_weights() -> None:
    network = build_network("mobilenet", 2, 32)
    assert not torch.equal(network.region_model1.conv_stem.weight, network.region_model2.conv_stem.weight)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_file_with_a_classifier(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(3)
    source = timm.create_model("mobilenetv1_100").state_dict()
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": source}, file)
    else:
        from safetensors.torch import save_file

        save_file(source, file)
    network = build_network("mobilenet", 2, 32, pretrained=file)
    for lib in (network.region_model1, network.region_model2):
        assert torch.equal(lib.blocks[3][2].conv_pw.weight, source["blocks.3.2.conv_pw.weight"])


@pytest.mark.slow
def test_torchvision_weights_of_resnet34(tmp_path: Path) -> None:
    import torchvision

    source = torchvision.models.resnet34()
    old = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "resnet34.pth")
    network = build_network("resnet", 1, 64, pretrained=tmp_path / "resnet34.pth").eval()
    images = torch.randn(2, 3, 64, 64)
    source.fc = nn.Identity()
    with torch.inference_mode():
        torch.testing.assert_close(network.region_model1(images), source.eval()(images), rtol=1e-5, atol=1e-5)


def test_weights_of_another_network(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    backbone = build_network("mobilenet", 1, 32).region_model1
    with pytest.raises(InputError, match="another network.*conv_stem"):
        weights_from_file(tmp_path / "resnet18.pth", backbone, "mobilenet")


def test_weights_from_the_hub_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """All LIBs get the weights that timm downloads."""
    from models import backbones

    real = timm.create_model
    torch.manual_seed(1)
    fetched = real("mobilenetv1_100", num_classes=0).state_dict()

    def create(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        model = real(name, **options)
        if pretrained:
            model.load_state_dict(fetched)
        return model

    monkeypatch.setattr(backbones.timm, "create_model", create)
    monkeypatch.setattr(backbones, "hub_reachable", lambda: True)
    network = build_network("mobilenet", 2, 32, pretrained=True)
    for lib in (network.region_model1, network.region_model2):
        assert torch.equal(lib.conv_stem.weight, fetched["conv_stem.weight"])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_recomputed_activations_give_the_same_gradients_and_statistics(precision: torch.dtype) -> None:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    results = []
    for recomputed in (False, True):
        torch.manual_seed(0)
        network = build_network("test_resnet", 2, 32)
        network.precision, network.recompute = precision, recomputed
        logits = network(images)
        torch.stack([logits.fused, logits.all, *logits.leave_one_out]).square().sum().backward()
        gradients = {name: p.grad for name, p in network.named_parameters()}
        results.append({**gradients, **dict(network.named_buffers())})
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_backbones_compute_in_half_precision_and_heads_in_float32(precision: torch.dtype) -> None:
    torch.manual_seed(0)
    network = build_network("test_resnet", 2, 32).eval()
    images, seen = torch.rand(4, 3, 32, 32), []
    with torch.inference_mode():
        full = network(images)
        network.precision = precision
        network.region_model1.register_forward_hook(lambda *call: seen.append(call[2].dtype))
        half = network(images)
    assert seen == [precision]
    assert half.fused.dtype == half.all.dtype == torch.float32
    assert 0 < (half.fused - full.fused).abs().max() < 0.05
