"""How torch's own modules store their matrices, against the formula of each, and what is no matrix of a known kind."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from htmuon.routing.declared import holders
from htmuon.routing.split import Interleaved
from htmuon.routing.storage import stored
from htmuon.routing.views import matrix_view
from tests.stored_parts import rows_of_parts


def parts_of(module, attribute, by=()):
    """The matrices of a parameter, taken out by what is said of it."""
    found = stored(module, attribute, by)
    matrix = matrix_view(getattr(module, attribute), found.view)
    return [matrix[..., list(rows), :] for rows in rows_of_parts(found.split, matrix.shape[-2])]


@pytest.mark.parametrize("suffix", ["_l0", ""], ids=["layer", "cell"])
def test_lstm(suffix):
    module = (nn.LSTM if suffix else nn.LSTMCell)(3, 4, bias=False)
    x, h, c = torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)
    inner = zip(parts_of(module, f"weight_ih{suffix}"), parts_of(module, f"weight_hh{suffix}"), strict=True)
    i, f, g, o = (x @ of_x.T + h @ of_h.T for of_x, of_h in inner)
    expected = o.sigmoid() * (f.sigmoid() * c + i.sigmoid() * g.tanh()).tanh()
    found = module(x[None], (h[None], c[None]))[0][0] if suffix else module(x, (h, c))[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("suffix", ["_l0", ""], ids=["layer", "cell"])
def test_gru(suffix):
    module = (nn.GRU if suffix else nn.GRUCell)(3, 4, bias=False)
    x, h = torch.randn(2, 3), torch.randn(2, 4)
    (xr, xz, xn), (hr, hz, hn) = parts_of(module, f"weight_ih{suffix}"), parts_of(module, f"weight_hh{suffix}")
    r, z = (x @ xr.T + h @ hr.T).sigmoid(), (x @ xz.T + h @ hz.T).sigmoid()
    expected = (1 - z) * (x @ xn.T + r * (h @ hn.T)).tanh() + z * h
    found = module(x[None], h[None])[0][0] if suffix else module(x, h)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("suffix", ["_l0", ""], ids=["layer", "cell"])
def test_plain_recurrence(suffix):
    module = (nn.RNN if suffix else nn.RNNCell)(3, 4, bias=False)
    x, h = torch.randn(2, 3), torch.randn(2, 4)
    [of_x], [of_h] = parts_of(module, f"weight_ih{suffix}"), parts_of(module, f"weight_hh{suffix}")
    found = module(x[None], h[None])[0][0] if suffix else module(x, h)
    torch.testing.assert_close(found, (x @ of_x.T + h @ of_h.T).tanh())


def test_the_projection_of_an_lstm():
    module = nn.LSTM(3, 6, proj_size=2, bias=False)
    assert [stored(module, name).split for name, _ in module.named_parameters()] == [4, 4, None]


def test_attention():
    module = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    x = torch.randn(2, 5, 8)
    q, k, v = ((x @ part.T).unflatten(-1, (2, 4)).transpose(1, 2) for part in parts_of(module, "in_proj_weight"))
    mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
    torch.testing.assert_close(module(x, x, x)[0], mixed @ module.out_proj.weight.T)
    apart = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
    assert [stored(apart, f"{of}_proj_weight").split for of in "qkv"] == [None] * 3


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_groups_of_a_convolution(kind):
    module = kind(6, 9, 2, groups=3, bias=False)
    image = torch.randn(2, 6, *[4] * (module.weight.ndim - 2))
    patches = [image]
    for dim in range(2, image.ndim):
        patches = [patch.unfold(dim, 2, 1) for patch in patches]
    [patch] = patches
    places = patch.shape[2 : image.ndim]
    # [batch, channel, place, kernel] to [batch, place, channel, kernel]
    patch = patch.flatten(2, image.ndim - 1).transpose(1, 2).flatten(3)
    groups = zip(parts_of(module, "weight"), patch.split(2, dim=2), strict=True)
    expected = torch.cat([of.flatten(2) @ part.T for part, of in groups], dim=-1)
    torch.testing.assert_close(module(image), expected.transpose(1, 2).unflatten(2, places))


@pytest.mark.parametrize(
    "module",
    [nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 3, groups=8), nn.ConvTranspose2d(8, 8, 2, groups=4)],
    ids=["depthwise", "with multiplier", "transposed"],
)
def test_no_matrices_of_groups(module):
    assert stored(module, "weight") is None


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_heads = 2
        self.qkv = nn.Linear(8, 24)


def test_a_name_alone_is_no_reason_to_split():
    attention = Attention()
    assert stored(attention.qkv, "weight", holders(attention)[attention.qkv]).split is None


class Latent(nn.Module):
    def __init__(self, rows, heads=2, size=4):
        super().__init__()
        self.num_heads, self.qk_nope_head_dim, self.v_head_dim = heads, size, 3
        self.kv_b_proj = nn.Linear(8, rows)


@pytest.mark.parametrize(("rows", "split"), [(14, Interleaved(2, (4, 3))), (16, None)])
def test_numbers_that_are_not_the_rows_say_nothing(rows, split):
    """Attributes that only such an attention has are enough, in any class; but they must add up."""
    latent = Latent(rows)
    assert stored(latent.kv_b_proj, "weight", holders(latent)[latent.kv_b_proj]).split == split


@pytest.mark.parametrize(("heads", "size"), [(0, 4), (2, None), (2, -1), ("2", 4), (torch.zeros(2), 4)], ids=str)
def test_attributes_that_are_no_sizes_say_nothing(heads, size):
    latent = Latent(14, heads, size)
    assert stored(latent.kv_b_proj, "weight", holders(latent)[latent.kv_b_proj]).split is None


def test_empty_experts_have_no_parts():
    experts = nn.Module()
    experts.is_transposed, experts.is_concatenated = True, False
    experts.gate_up_proj = nn.Parameter(torch.zeros(4, 24, 0))
    assert stored(experts, "gate_up_proj").split is None


def test_a_parametrized_layer_is_known_by_the_class_it_is_made_from():
    timm = pytest.importorskip("timm")
    from timm.models.vision_transformer import Attention

    attention = Attention(8, num_heads=2)
    nn.utils.parametrizations.weight_norm(attention.qkv)
    assert timm.__name__
    assert stored(attention.qkv, "weight", holders(attention)[attention.qkv]).split == 3
