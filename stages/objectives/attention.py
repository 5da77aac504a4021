"""Losses on attention: raw scores (TinyBERT), distributions (MobileBERT), relations (MiniLMv2).

Scores are queries x keys before the softmax; `attention_mask_BS` is 1 on real positions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.objectives.term import Term


def score_mse(student_BHSS: Tensor, teacher_BHSS: Tensor, attention_mask_BS: Tensor) -> Term:
    """Return the squared error of raw scores over real query and key pairs (TinyBERT, clean)."""
    valid_BSS = attention_mask_BS[:, :, None] * attention_mask_BS[:, None, :]
    squared_BHSS = (student_BHSS - teacher_BHSS.detach()).square()
    total = (squared_BHSS * valid_BSS[:, None].to(squared_BHSS.dtype)).sum()
    return Term(total, int(valid_BSS.sum()) * student_BHSS.shape[1])


def score_mse_upstream(
    student_BHSS: Tensor, teacher_BHSS: Tensor, attention_mask_BS: Tensor
) -> Term:
    """Return TinyBERT's released form: scores at or below -100 become 0, everything is averaged.

    Padding columns count, so the value depends on how far a batch is padded.
    """
    bias_BS = (1.0 - attention_mask_BS.to(student_BHSS.dtype)) * -1e4
    student, teacher = (
        torch.where(x <= -1e2, torch.zeros_like(x), x)
        for x in (student_BHSS + bias_BS[:, None, None], teacher_BHSS + bias_BS[:, None, None])
    )
    squared = (student - teacher.detach()).square()
    return Term(squared.sum(), squared.numel())


def distribution_ce(student_BHSS: Tensor, teacher_BHSS: Tensor) -> Term:
    """Return the cross-entropy between attention distributions (MobileBERT's released code)."""
    targets = F.softmax(teacher_BHSS.detach(), dim=-1)
    total = -(targets * F.log_softmax(student_BHSS, dim=-1)).sum()
    return Term(total, student_BHSS.shape[:3].numel())


def distribution_kl(student_BHSS: Tensor, teacher_BHSS: Tensor) -> Term:
    """Return KL(teacher || student) between attention distributions (MobileBERT's paper).

    It differs from `distribution_ce` by the teacher's entropy, which has no gradient.
    """
    total = F.kl_div(
        F.log_softmax(student_BHSS, dim=-1),
        F.log_softmax(teacher_BHSS.detach(), dim=-1),
        reduction="sum",
        log_target=True,
    )
    return Term(total, student_BHSS.shape[:3].numel())


def relation_kl(
    student_BSd: Tensor,
    teacher_BSD: Tensor,
    num_relation_heads: int,
    attention_mask_BS: Tensor,
    *,
    per_sequence: bool = False,
) -> Term:
    """Return MiniLMv2's divergence of self-relations of queries, keys or values.

    Vectors of all heads are concatenated and split again into relation heads, so the widths of
    student and teacher may differ. Padded keys take no part; padded queries are not counted.

    Args:
        student_BSd: The student's vectors; d must be a multiple of num_relation_heads.
        teacher_BSD: The teacher's vectors; so must D.
        num_relation_heads: A_r in the paper, 48 for a base teacher, 64 for a large one.
        attention_mask_BS: 1 on real positions.
        per_sequence: Average inside each sequence first, then over sequences (the paper's
            1/(A_r |x|)); otherwise every real query of the batch counts the same.
    """
    log_student = _log_relations(student_BSd, num_relation_heads, attention_mask_BS)
    log_teacher = _log_relations(teacher_BSD.detach(), num_relation_heads, attention_mask_BS)
    kl_BHS = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1)
    kl_BS = (kl_BHS * attention_mask_BS[:, None].to(kl_BHS.dtype)).sum(dim=1) / num_relation_heads
    lengths_B = attention_mask_BS.sum(dim=1)
    if per_sequence:
        return Term((kl_BS.sum(dim=1) / lengths_B).sum(), kl_BS.shape[0])
    return Term(kl_BS.sum(), int(lengths_B.sum()))


def _log_relations(states_BSD: Tensor, num_heads: int, attention_mask_BS: Tensor) -> Tensor:
    batch, length, width = states_BSD.shape
    if width % num_heads:
        raise ValueError(f"width {width} cannot be split into {num_heads} relation heads")
    heads_BHSd = states_BSD.view(batch, length, num_heads, width // num_heads).transpose(1, 2)
    scores_BHSS = heads_BHSd @ heads_BHSd.transpose(-1, -2) / math.sqrt(width // num_heads)
    # Finite, not -inf: a masked key must give exp(...) * 0 and not 0 * inf.
    scores_BHSS = scores_BHSS.masked_fill(attention_mask_BS[:, None, None] == 0, -1e4)
    return F.log_softmax(scores_BHSS, dim=-1)
