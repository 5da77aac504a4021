"""A model as something to run: its encoder in PyTorch, or as an ONNX graph of the same encoder."""

from pathlib import Path

import torch
from transformers import AutoModel, PreTrainedModel

from stages.errors import DataError
from stages.export.parity import open_session
from stages.speed.timing import Ids, Runner
from stages.students.heads import quiet_transformers


def open_encoder(folder: Path) -> PreTrainedModel:
    """Return a model folder's encoder, without its head, in fp32."""
    if not weights_of(folder).is_file():
        raise DataError(f"{weights_of(folder)} does not exist; run: dvc repro teacher distill")
    # A masked language model brings no pooler: BERT's is made anew, and counted as in the papers.
    quiet_transformers()
    model: PreTrainedModel = AutoModel.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    return model.eval()


def torch_runner(model: PreTrainedModel) -> Runner:
    """Return the forward pass of a PyTorch encoder."""

    @torch.inference_mode()
    def run(ids: Ids, mask: Ids) -> object:
        return model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))

    return run


def onnx_runner(path: Path) -> Runner:
    """Return the forward pass of a graph in ONNX Runtime, with as many threads as PyTorch has."""
    session = open_session(path, num_threads=torch.get_num_threads())
    names = [entry.name for entry in session.get_inputs()]

    def run(ids: Ids, mask: Ids) -> object:
        return session.run(None, dict(zip(names, (ids, mask), strict=True)))

    return run


def weights_of(folder: Path) -> Path:
    """Return where a model folder has its weights."""
    return folder / "model.safetensors"
