"""One forward pass, and with it some hidden states and what some layers' attention compares.

transformers 5 gives attention only after the softmax and after dropout, and under its default
kernel an empty tuple, over which a loss silently sums to nothing. So attention is read where it is
computed: a registered attention function that computes as it is computed everywhere here, and hands
queries, keys and values of the layers asked for to whoever is looking. Scores are never formed.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from stages.errors import TeacherError
from stages.objectives.attention import Heads
from stages.students.heads import encode, encoder_layers, types_read
from stages.students.layout import Layout
from stages.students.unpadding import attend_within_sequences

TAPPED = "tapped"
"""The name under which transformers knows the attention function of this module."""


class Attention(NamedTuple):
    """What one layer's attention is computed from, B x H x S x d."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    scaling: float

    @property
    def heads(self) -> Heads:
        """Queries and keys, whose products are the scores."""
        return Heads(self.queries, self.keys, self.scaling)

    def joined(self, name: str) -> Tensor:
        """Return queries, keys or values with the vectors of all heads joined, B x S x D."""
        states: Tensor = getattr(self, name)
        return states.transpose(1, 2).flatten(2)


@dataclass(frozen=True, slots=True)
class Taps:
    """Which hidden states and which layers' attention are wanted.

    Layers are counted from one; hidden state 0 is the embedding output.
    """

    hidden: frozenset[int] = frozenset()
    attention: frozenset[int] = frozenset()

    def __or__(self, other: "Taps") -> "Taps":
        """Return what either wants."""
        return Taps(self.hidden | other.hidden, self.attention | other.attention)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a forward pass gave: the last hidden states, and whatever was tapped."""

    last_BSD: Tensor | None
    """None where the pass ended at the last layer that was tapped."""
    hidden: dict[int, Tensor]
    attention: dict[int, Attention]


@dataclass(slots=True)
class _Recorder:
    wanted: frozenset[int]
    stops: bool = False
    """Whether the pass ends with the last layer wanted."""
    num_seen: int = 0
    kept: dict[int, Attention] = field(default_factory=dict)


class _Enough(Exception):  # noqa: N818
    """All that was wanted has been seen."""


_looking: ContextVar[_Recorder | None] = ContextVar("looking", default=None)


def _tapped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    recorder = _looking.get()
    if recorder is not None:
        recorder.num_seen += 1
        if recorder.num_seen in recorder.wanted:
            recorder.kept[recorder.num_seen] = Attention(query, key, value, kwargs["scaling"])
        if recorder.stops and recorder.num_seen == max(recorder.wanted):
            raise _Enough
    return attend_within_sequences(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(TAPPED, _tapped_attention)
AttentionMaskInterface.register(TAPPED, sdpa_mask)


def look(
    model: PreTrainedModel,
    input_ids_BS: Tensor,
    attention_mask_BS: Tensor,
    taps: Taps,
    *,
    token_types_BS: Tensor | None = None,
    to_the_end: bool = True,
    layout: Layout | None = None,
) -> Seen:
    """Run a model's encoder and return its last hidden states with what the taps ask for.

    Where they ask for nothing, padding is not computed (stages/students/heads.py). Where the last
    hidden states are not wanted (`to_the_end=False`), nothing is computed after what the taps ask
    for: MiniLMv2 reads the queries, keys and values of layer 21 of 24, and a progressive phase one
    layer after another.

    Raises:
        TeacherError: as `watch`.
    """
    if taps == Taps():
        given = input_ids_BS, attention_mask_BS
        return Seen(encode(model, *given, token_types_BS=token_types_BS, layout=layout), {}, {})
    inputs = {"input_ids": input_ids_BS, "attention_mask": attention_mask_BS}
    inputs |= types_read(model, token_types_BS)
    num_layers = model.config.num_hidden_layers
    if not to_the_end and max(taps.hidden, default=0) < num_layers:
        return _look_no_further(model, inputs, taps)
    output, hidden, attention = watch(model.base_model, inputs, taps)
    return Seen(output.last_hidden_state, hidden, attention)


def layers_run(taps: Taps, num_layers: int, *, to_the_end: bool) -> int:
    """Return how many layers `look` runs; one that is left in its midst counts."""
    last_hidden = max(taps.hidden, default=0)
    if to_the_end or taps == Taps() or last_hidden == num_layers:
        return num_layers
    return max(last_hidden, max(taps.attention, default=0))


def _look_no_further(model: PreTrainedModel, inputs: dict[str, Tensor], taps: Taps) -> Seen:
    """Run a model as far as its taps ask for. Hidden state i is what layer i is given, from 0."""
    layers = encoder_layers(model)
    num_layers = model.config.num_hidden_layers
    if len(layers) != num_layers:
        raise TeacherError(f"{type(model).__name__} has {num_layers} layers, found {len(layers)}")
    last, last_attention = max(taps.hidden, default=-1), max(taps.attention, default=0)
    hidden: dict[int, Tensor] = {}

    def keep(index: int, _: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden[index] = given[0] if given else named["hidden_states"]
        if index == last >= last_attention:
            raise _Enough

    with (
        ExitStack() as hooks,
        _recording(model, taps.attention, stops=last_attention > last) as recorder,
        suppress(_Enough),
    ):
        for index in taps.hidden:
            hook = partial(keep, index)
            hooks.callback(layers[index].register_forward_pre_hook(hook, with_kwargs=True).remove)
        model.base_model(**inputs)
    _check_seen(model, recorder, max(last, last_attention))
    return Seen(None, hidden, recorder.kept)


def watch(
    model: PreTrainedModel, inputs: dict[str, Tensor], taps: Taps
) -> tuple[Any, dict[int, Tensor], dict[int, Attention]]:
    """Run a model, with a head or without, and return its output and what the taps ask for.

    Raises:
        TeacherError: the model's attention does not pass through the registered function, or it
            gave fewer hidden states than it has layers: a loss over them would be silently zero.
    """
    num_layers = model.config.num_hidden_layers
    with _recording(model, taps.attention) as recorder:
        output = model(**inputs, output_hidden_states=sorted(taps.hidden) if taps.hidden else False)
    _check_seen(model, recorder, num_layers)
    hidden: dict[int, Tensor] = {}
    if taps.hidden:
        if len(output.hidden_states) != num_layers + 1:
            raise TeacherError(
                f"{type(model).__name__} has {num_layers} layers, but gave "
                f"{len(output.hidden_states)} hidden states"
            )
        hidden = {index: output.hidden_states[index] for index in taps.hidden}
    return output, hidden, recorder.kept


def _check_seen(model: PreTrainedModel, recorder: _Recorder, expected: int) -> None:
    if recorder.num_seen != expected:
        num_layers = model.config.num_hidden_layers
        raise TeacherError(
            f"{type(model).__name__} has {num_layers} layers, but attention was seen "
            f"{recorder.num_seen} times: objectives on its layers cannot be used with it"
        )


@contextmanager
def _recording(
    model: PreTrainedModel, wanted: Iterable[int], *, stops: bool = False
) -> Iterator[_Recorder]:
    recorder = _Recorder(frozenset(wanted), stops)
    before = model.config._attn_implementation
    model.set_attn_implementation(TAPPED)
    token = _looking.set(recorder)
    try:
        yield recorder
    finally:
        _looking.reset(token)
        model.set_attn_implementation(before)
