"""Which layer of the teacher each layer of the student learns from.

Layers are counted from one, and 0 is the embedding output, which is matched with itself.
"""

from collections.abc import Sequence

from stages.errors import SettingsError

Pairs = tuple[tuple[int, int], ...]
"""(student's layer, teacher's layer)."""


def evenly(num_student: int, num_teacher: int, *, embeddings: bool) -> Pairs:
    """Return the last layer of each of equal blocks of the teacher (TinyBERT's g(m) = m N / M).

    For 4 of 12: 3, 6, 9, 12; the released TinyBERT code takes the same.

    Raises:
        SettingsError: the teacher's layers do not divide evenly.
    """
    if num_teacher % num_student:
        raise SettingsError(
            f"the teacher's {num_teacher} layers do not divide evenly over the student's "
            f"{num_student}: name the pairs, layers: [[1, 2], ...]"
        )
    block = num_teacher // num_student
    first = 0 if embeddings else 1
    return tuple((layer, layer * block) for layer in range(first, num_student + 1))


def matched(
    given: Sequence[tuple[int, int]] | None,
    num_student: int,
    num_teacher: int,
    only_layer: int | None,
    *,
    embeddings: bool,
) -> tuple[Pairs, Pairs]:
    """Return the pairs of an objective, and those of them that are of one layer of the student.

    Args:
        given: Pairs that a recipe names; None matches evenly.
        num_student: Layers of the student.
        num_teacher: Of the teacher.
        only_layer: The student's layer; None is all of them.
        embeddings: Whether the embedding output, layer 0, can be in a pair.

    Raises:
        SettingsError: a layer that the student or the teacher does not have, or that does not
            divide evenly where none is named.
    """
    if given is None:
        pairs = evenly(num_student, num_teacher, embeddings=embeddings)
    else:
        pairs = tuple(given)
    lowest = 0 if embeddings else 1
    for pair in pairs:
        for whose, layer, num in zip(
            ("student", "teacher"), pair, (num_student, num_teacher), strict=True
        ):
            if not lowest <= layer <= num:
                raise SettingsError(
                    f"layers names the {whose}'s layer {layer}: it has {lowest} to {num}"
                )
    return pairs, tuple(pair for pair in pairs if only_layer in (None, pair[0]))


def patience_pairs(how: str, num_student: int, num_teacher: int) -> Pairs:
    """Return PKD's pairs: every k-th layer (`skip`) or the last ones (`last`), without the final.

    For 6 of 12: 2, 4, 6, 8, 10 or 7, 8, 9, 10, 11 (Sun et al. 2019, section 3.2).
    """
    if num_student < 2 or num_teacher < num_student:
        raise SettingsError(
            f"patience needs a student of at least 2 layers, and of no more than its teacher's "
            f"{num_teacher}; this one has {num_student}"
        )
    if how == "skip":
        if num_teacher % num_student:
            raise SettingsError(
                f"layers = skip: the teacher's {num_teacher} layers do not divide evenly over the "
                f"student's {num_student}; take last"
            )
        return evenly(num_student, num_teacher, embeddings=False)[:-1]
    first = num_teacher - num_student
    return tuple((layer, first + layer) for layer in range(1, num_student))
