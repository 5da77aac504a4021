"""Losses on hidden states. Teachers are detached; only the student learns.

Index convention: hidden state 0 is the embedding output, i the output of layer i (one-based).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.objectives.term import Term


def cosine(student_BSD: Tensor, teacher_BSD: Tensor, attention_mask_BS: Tensor) -> Term:
    """Return 1 - cosine of the last hidden states, summed over real positions (DistilBERT)."""
    # Where the teacher's width differs this raises: DistilBERT's cosine has no projection.
    similarity_BS = F.cosine_similarity(student_BSD, teacher_BSD.detach(), dim=-1)
    # A product with the mask, where picking rows would make the host wait for a GPU.
    return Term(((1 - similarity_BS) * attention_mask_BS).sum(), attention_mask_BS.sum())


def state_mse(
    student_BSD: Tensor, teacher_BSD: Tensor, attention_mask_BS: Tensor | None = None
) -> Term:
    """Return the squared error between states, the student's projected before (TinyBERT).

    The count is positions times width. Without a mask padding counts too, as upstream; with one
    the loss does not depend on padding.
    """
    squared_BSD = (student_BSD - teacher_BSD.detach()).square()
    if attention_mask_BS is None:
        return Term(squared_BSD.sum(), squared_BSD.numel())
    weights_BS = attention_mask_BS.to(squared_BSD.dtype)
    num_positions = torch.count_nonzero(attention_mask_BS)
    return Term((squared_BSD.sum(dim=-1) * weights_BS).sum(), num_positions * squared_BSD.shape[-1])


def normalised_mse(
    student_BSD: Tensor, teacher_BSD: Tensor, attention_mask_BS: Tensor | None = None
) -> Term:
    """Return the squared error between states normalised without parameters (MobileBERT FMT)."""
    # TensorFlow's layer norm, which the released code uses, has this epsilon; PyTorch's is 1e-5.
    student, teacher = (
        F.layer_norm(x, (x.shape[-1],), eps=1e-12) for x in (student_BSD, teacher_BSD)
    )
    return state_mse(student, teacher, attention_mask_BS)


def patience(
    student_BLD: Tensor, teacher_BLD: Tensor, *, normalise: bool = True, paper_form: bool = False
) -> Term:
    """Return PKD's loss on the [CLS] states of the matched layers.

    The released code averages over examples, layers and width; the paper sums the squared
    distances of the layers and averages over examples. A weight beta means nothing without saying
    which: the two differ by layers times width.
    """
    if normalise:
        student_BLD, teacher_BLD = (
            F.normalize(student_BLD, dim=-1),
            F.normalize(teacher_BLD, dim=-1),
        )
    squared = (student_BLD - teacher_BLD.detach()).square()
    return Term(squared.sum(), squared.shape[0] if paper_form else squared.numel())
