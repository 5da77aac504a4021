"""Losses on logits: soft targets at a temperature, and the labels beside them.

These are the textbook forms, with all logits in memory. Vocabulary-sized losses train through
`vocabulary.py`, which gives the same values without holding them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.objectives.term import Term, masked_positions


def soft_target_kl(student_NV: Tensor, teacher_NV: Tensor, temperature: float) -> Term:
    """Return KL(teacher || student) at a temperature, times T squared, summed over rows.

    Its mean is DistilBERT's `ce` (`KLDivLoss(batchmean)` over selected tokens) and the textbook
    form of knowledge distillation (Hinton et al. 2015, section 2).
    """
    kl = F.kl_div(
        F.log_softmax(student_NV / temperature, dim=-1),
        F.log_softmax(teacher_NV.detach() / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )
    return Term(kl * temperature**2, student_NV.shape[0])


def soft_target_ce(student_NC: Tensor, teacher_NC: Tensor) -> Term:
    """Return the cross-entropy with the teacher's probabilities at T = 1, summed over rows.

    Its mean is PD's loss and TinyBERT's prediction loss in its textbook form; TinyBERT's code
    divides by the number of classes as well (see `per_class`).
    """
    targets_NC = F.softmax(teacher_NC.detach(), dim=-1)
    ce_N = -(targets_NC * F.log_softmax(student_NC, dim=-1)).sum(dim=-1)
    return Term(ce_N.sum(), student_NC.shape[0])


def per_class(term: Term, num_classes: int) -> Term:
    """Return a term reduced over classes too, as `.mean()` does in TinyBERT's and PKD's code."""
    return Term(term.sum, term.count * num_classes)


def label_ce(logits_NC: Tensor, labels_N: Tensor) -> Term:
    """Return the cross-entropy with labels, summed over rows whose label is not -100.

    With vocabulary logits this is the masked-language-model loss (`mlm`).
    """
    total = F.cross_entropy(logits_NC, labels_N, ignore_index=-100, reduction="sum")
    return Term(total, int(masked_positions(labels_N).sum()))


def mixed_label_ce(
    student_NV: Tensor, teacher_NV: Tensor, labels_N: Tensor, hard_share: float = 0.5
) -> Term:
    """Return MobileBERT's pre-training distillation loss on labelled rows.

    The target is `hard_share` of the label and the rest of the teacher's distribution at T = 1
    (google-research/mobilebert: 0.5 and 0.5).
    """
    rows = masked_positions(labels_N)
    hard = label_ce(student_NV[rows], labels_N[rows])
    soft = soft_target_ce(student_NV[rows], teacher_NV[rows])
    return Term(hard_share * hard.sum + (1 - hard_share) * soft.sum, hard.count)


def span_kl(
    student_start_BS: Tensor,
    student_end_BS: Tensor,
    teacher_start_BS: Tensor,
    teacher_end_BS: Tensor,
    temperature: float = 2.0,
    attention_mask_BS: Tensor | None = None,
) -> Term:
    """Return the mean of the start and end KL of DistilBERT's second distillation on SQuAD.

    The softmax runs over positions. With a mask, padding takes no part in it; upstream leaves it
    in, which makes the loss depend on how far a batch is padded.
    """
    terms = []
    for student, teacher in (
        (student_start_BS, teacher_start_BS),
        (student_end_BS, teacher_end_BS),
    ):
        if attention_mask_BS is not None:
            # A large finite number: -inf on both sides would give inf - inf in the divergence.
            padding = attention_mask_BS == 0
            student, teacher = (x.masked_fill(padding, -1e4) for x in (student, teacher))
        terms.append(soft_target_kl(student, teacher, temperature).sum)
    return Term((terms[0] + terms[1]) / 2, student_start_BS.shape[0])


def span_ce(start_BS: Tensor, end_BS: Tensor, start_B: Tensor, end_B: Tensor) -> Term:
    """Return the mean of the start and end cross-entropies of SQuAD, summed over examples.

    A gold position past the window (as `ignored_index` upstream) adds nothing but is counted.
    """
    ignored = start_BS.shape[1]
    gold = [position.clamp(0, ignored) for position in (start_B, end_B)]
    sums = [
        F.cross_entropy(logits, position, ignore_index=ignored, reduction="sum")
        for logits, position in zip((start_BS, end_BS), gold, strict=True)
    ]
    return Term(torch.stack(sums).mean(), start_BS.shape[0])
