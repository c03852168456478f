"""Tables beside quantized weights, complex, sparse, shared and other tensors that are no weights to measure."""

import math
from pathlib import Path

import pytest
import torch
from stored_models import heavy, write
from torch import Tensor

from htmuon.checkpoints import AnalyzeConfig, analyze
from htmuon.checkpoints.reading import Checkpoint
from htmuon.checkpoints.stored_matrix import StoredTensor, side_tables
from htmuon.cli import main


def ints(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randint(0, 100, shape).to(dtype)


FP8 = torch.float8_e4m3fn
# One layer of each format, as its quantizer stores it: the tensors that are no weights at all, of two or more dims.
FORMATS: dict[str, dict[str, Tensor]] = {
    "GPTQ": {
        "qweight": ints(torch.int32, 16, 48),
        "qzeros": ints(torch.int32, 8, 6),
        "scales": heavy(16, 48).half(),
        "g_idx": ints(torch.int32, 128),
        "bias": torch.ones(48).half(),
    },
    "AWQ": {
        "qweight": ints(torch.int32, 64, 8),
        "qzeros": ints(torch.int32, 16, 8),
        "scales": heavy(16, 64).half(),
    },
    "bitsandbytes": {
        "weight": ints(torch.uint8, 2048, 1),
        "weight.absmax": heavy(64, 16),
        "weight.nested_absmax": torch.ones(16, 16),
        "weight.quant_map": torch.ones(16),
        "weight.nested_quant_map": torch.ones(256),
        "weight.quant_state.bitsandbytes__nf4": ints(torch.uint8, 80),
    },
    "int8": {"weight": ints(torch.int8, 64, 48), "SCB": heavy(64, 12)},
    "compressed-tensors": {
        "weight_packed": ints(torch.int32, 64, 8),
        "weight_scale": heavy(64, 16).bfloat16(),
        "weight_zero_point": ints(torch.int32, 8, 16),
        "weight_shape": torch.tensor([64, 64]),
    },
    "fp8 of DeepSeek": {"weight": torch.ones(64, 64).to(FP8), "weight_scale_inv": heavy(16, 16)},
    "fp8 by channel": {
        "weight": torch.ones(64, 64).to(FP8),
        "weight_scale": torch.ones(64, 1),
        "input_scale": heavy(16, 16),
    },
    "NVFP4": {
        "weight": ints(torch.uint8, 64, 32),
        "weight_scale": torch.ones(64, 4).to(FP8),
        "weight_scale_2": torch.ones(()),
        "input_scale": torch.ones(()),
    },
    "MXFP4": {
        "experts.gate_up_proj_blocks": ints(torch.uint8, 2, 16, 2, 16),
        "experts.gate_up_proj_scales": ints(torch.uint8, 2, 16, 2),
    },
    "torchao": {
        "_weight_qdata": ints(torch.int8, 64, 32),
        "_weight_scale": heavy(64, 16),
        "_weight_zero_point": heavy(64, 16),
    },
    "HQQ": {"W_q": ints(torch.uint8, 64, 32), "scale": heavy(64, 16).half(), "zero": heavy(64, 16).half()},
    "quanto": {"weight._data": ints(torch.int8, 64, 32), "weight._scale": heavy(64, 16)},
    "MLX": {"weight": ints(torch.uint32, 64, 8), "scales": heavy(64, 16), "biases": heavy(64, 16)},
    "AQLM": {
        "codes": ints(torch.int16, 64, 8, 2),
        "codebooks": heavy(2 * 256, 8).view(2, 256, 1, 8),
        "scales": heavy(64, 16),
    },
    "Marlin": {"B": ints(torch.int32, 16, 64), "s": heavy(16, 64).half()},
}


@pytest.mark.parametrize("name", FORMATS)
def test_no_alpha_of_a_table_beside_quantized_weights(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = {f"model.layers.0.q_proj.{key}": tensor for key, tensor in FORMATS[name].items()}
    stored = write(tmp_path / "x.safetensors", layer)
    assert main(["analyze", str(stored)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "no weight could be measured" in err
    assert "Dequantize it to bfloat16 or float32." in err
    # With a weight that is one, it alone has an alpha; everything else of two dims says why it has none.
    (row, *others) = rows(write(tmp_path / "y.safetensors", {"a.weight": heavy(60, 40), **layer}))
    assert (row.name, row.status, row.fit_status("hill")) == ("a.weight", "ok", "ok")
    assert {other.stored.key for other in others} == {key for key, tensor in layer.items() if tensor.ndim > 1}
    assert {other.status for other in others} <= {"side_table", "not_floating"}
    floating = [other for other in others if other.stored.floating]
    assert {other.status for other in floating} <= {"side_table"}
    assert all("dequantize" in other.message for other in others)


@pytest.mark.parametrize("name", FORMATS)
def test_a_pickle_has_the_same_statuses(name: str, tmp_path: Path) -> None:
    layer = {f"q.{key}": tensor for key, tensor in FORMATS[name].items()} | {"w": heavy(60, 40)}
    torch.save(layer, tmp_path / "x.pt")
    pickled = rows(tmp_path / "x.pt", allow_pickle=True)
    stored = rows(write(tmp_path / "x.safetensors", layer))
    assert [(row.name, row.status) for row in pickled] == [(row.name, row.status) for row in stored]
    assert [row.name for row in stored if row.status == "ok"] == ["w"]


def rows(path: Path, **options: bool):
    return analyze(AnalyzeConfig(path=path, **options)).checkpoints[0].rows


@pytest.mark.parametrize("leaf", ["scale", "scales", "zero", "biases", "s", "codebooks", "input_scale"])
def test_a_layer_may_call_its_weight_a_scale(leaf: str, tmp_path: Path) -> None:
    tensors = {f"mixer.0.{leaf}": heavy(60, 40), "mixer.1.qweight": ints(torch.int32, 16, 48)}
    tensors |= {"mixer.0.index": ints(torch.int64, 20, 20), f"{leaf}": heavy(60, 40), "int8": ints(torch.int8, 9, 9)}
    found = {row.name: row.fit_status("hill") for row in rows(write(tmp_path / "x.safetensors", tensors))}
    assert found == {
        leaf: "ok",
        "int8": "not_floating",
        f"mixer.0.{leaf}": "ok",
        "mixer.0.index": "not_floating",
        "mixer.1.qweight": "not_floating",
    }


def test_scales_may_be_in_another_file_than_their_weights(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.safetensors", {"l.qweight": ints(torch.int32, 16, 48)}),
        write(tmp_path / "b.safetensors", {"l.scales": heavy(16, 48)}),
    ]
    assert [matrix.status for matrix in Checkpoint(files).matrices] == ["not_floating", "side_table"]


def test_an_index_is_no_quantized_weight() -> None:
    """Swin's table of positions stands beside whole numbers that index it."""
    found = {"attn.relative_position_index": "I64", "attn.relative_position_bias_table": "F32", "attn.scale": "F32"}
    assert side_tables(StoredTensor(key=key, shape=(49, 49), dtype=dtype) for key, dtype in found.items()) == set()


def test_complex_and_sparse_tensors_are_called_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.pt"
    torch.save({"c": torch.complex(heavy(20, 20), heavy(20, 20)), "d": torch.ones(20, 20).to(torch.complex128)}, path)
    assert main(["analyze", str(path), "--allow-pickle"]) == 2
    err = capsys.readouterr().err
    assert "stored as C64 (complex numbers), complex128 (complex numbers). Store real and imaginary parts" in err
    assert "uantize" not in err
    torch.save({"c": torch.ones(20, 20).to(torch.complex64), "s": torch.eye(20).to_sparse(), "w": heavy(20, 20)}, path)
    found = {row.name: (row.status, row.message) for row in rows(path, allow_pickle=True)}
    assert {name: status for name, (status, _) in found.items()} == {"c": "complex", "s": "sparse", "w": "ok"}
    assert "only real matrices are measured" in found["c"][1]
    assert "to_dense" in found["s"][1]


def test_tied_tensors_are_measured_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedding = heavy(60, 40)
    tensors = {
        "embed.weight": embedding,
        "layers.0.w": heavy(60, 40, 1),
        "lm_head.weight": embedding,
        "head_t": embedding.T,
        "copy": embedding.clone(),
    }
    torch.save(tensors, tmp_path / "x.pt")
    found = {row.name: row.status for row in rows(tmp_path / "x.pt", allow_pickle=True)}
    names = {"copy": "ok", "embed.weight": "ok", "head_t": "ok", "layers.0.w": "ok", "lm_head.weight": "tied"}
    assert found == names
    assert main(["analyze", str(tmp_path / "x.pt"), "--allow-pickle"]) == 0
    out = capsys.readouterr().out
    assert "4 of 5 matrices fitted, no fit for 1 (1 tied)" in out
    assert "tied: the same tensor as embed.weight: measured once, under that name." in out


class Packed(Tensor):
    """A tensor that says it is float32, as torchao's quantized tensors do."""


class DTensor(Tensor):
    """A tensor that says it is whole, as torch.distributed's do."""


@pytest.mark.parametrize(("kind", "status"), [(Packed, "not_floating"), (DTensor, "sharded")])
def test_a_tensor_that_is_more_than_its_numbers_is_none(kind: type[Tensor], status: str, tmp_path: Path) -> None:
    with torch.serialization.safe_globals([kind]):
        torch.save({"w": heavy(20, 20).as_subclass(kind), "v": heavy(20, 20)}, tmp_path / "x.pt")
        found = {row.name: row for row in rows(tmp_path / "x.pt", allow_pickle=True)}
    assert {name: row.status for name, row in found.items()} == {"v": "ok", "w": status}
    assert kind.__name__ in found["w"].message


def test_a_packed_column_is_listed(tmp_path: Path) -> None:
    """bitsandbytes packs a weight into one column of bytes: it is none of the vectors that are skipped."""
    tensors = {"w": ints(torch.uint8, 900, 1), "position_ids": torch.arange(9)[None], "v": heavy(20, 20)}
    checkpoint = Checkpoint([write(tmp_path / "x.safetensors", tensors)])
    assert [(matrix.name, matrix.status) for matrix in checkpoint.matrices] == [("v", "ok"), ("w", "not_floating")]
    assert checkpoint.skipped == 1


def test_the_mean_is_that_of_the_weights_alone(tmp_path: Path) -> None:
    weights = {f"l.{i}.w": heavy(60, 40, i) for i in range(2)}
    scales = {f"l.{i}.q.weight_scale": torch.rand(60, 40) for i in range(2)}
    quantized = {f"l.{i}.q.weight_packed": ints(torch.int32, 60, 5) for i in range(2)}
    from htmuon.checkpoints.alpha_summary import summarize

    both = [
        summarize(rows(write(tmp_path / f"{len(more)}.safetensors", {**weights, **more})), ("hill",)).alpha["hill"]
        for more in ({}, {**scales, **quantized})
    ]
    assert both[0].mean == both[1].mean
    assert (both[1].fitted, both[1].failed) == (2, {"side_table": 2, "not_floating": 2})
    assert math.isfinite(both[0].mean)
