"""More of a task's text: words replaced by what a language model or a word space puts for them.

TinyBERT's data augmentation (Jiao et al. 2020, algorithm 1). A word that is one token gets what the
masked language model would put there, seeing the sentence with the word masked and the sentence as
it was; a longer word gets its neighbours in GloVe. Every variant then replaces each word with
probability p_t by one of its candidates. The released code runs the model once a word; here words
of many sentences go through it together.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import PreTrainedModel

from stages.errors import DataError
from stages.students.heads import head_of, types_read

WORD = re.compile(r"\b[A-Za-z]+\b")
"""Letters that are no part of a longer word, such as the rd of 3rd."""
_GRAMMAR = """
a about after all also am an and any are as at be because been before being between both but by can
could did do does doing down during each few for from further had has have having he her here hers
him his how i if in into is it its just me more most my no nor not now of off on once only or other
our out over own same she should so some such than that the their them then there these they this
those through to too under until up very was we were what when where which while who whom why will
with would you your d ll m re s t ve
"""
_BEFORE_NOT = "ai are could did do does had has have is should was were wo would"
STOP_WORDS = frozenset([*_GRAMMAR.split(), *(f"{word}n" for word in _BEFORE_NOT.split())])
"""Words that are never replaced, and what is left of them beside an apostrophe: they carry a
sentence's grammar, and often its label."""
MASK = "[MASK]"
MODEL_BATCH = 64


class WordSpace:
    """Word vectors, for the words that are nearest to one."""

    def __init__(self, words: list[str], vectors_WD: NDArray[np.float32]) -> None:
        self.words = words
        self.index = {word: i for i, word in enumerate(words)}
        norms = np.linalg.norm(vectors_WD, axis=1, keepdims=True)
        self.unit_WD = vectors_WD / np.maximum(norms, 1e-12)

    def nearest(self, word: str, num: int) -> list[str]:
        """Return the words nearest by cosine, nearest first, without the word; none if unknown."""
        if word not in self.index:
            return []
        similarity_W = self.unit_WD @ self.unit_WD[self.index[word]]
        similarity_W[self.index[word]] = -np.inf
        num = min(num, len(self.words) - 1)
        best = np.argpartition(-similarity_W, num - 1)[:num] if num else np.empty(0, int)
        return [self.words[i] for i in best[np.argsort(-similarity_W[best])]]


def read_glove(path: Path, max_words: int = 100_000) -> WordSpace:
    """Read a GloVe text file: a word and its numbers a line, frequent words first.

    Raises:
        DataError: the file is absent, or a line is not a word and as many numbers as the first.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: augmentation wants GloVe vectors as a text file")
    words: list[str] = []
    vectors: list[NDArray[np.float32]] = []
    with path.open(encoding="utf-8") as file:
        for number, line in zip(range(1, max_words + 1), file, strict=False):
            # From the right: a few words of the largest files have spaces in them.
            word, *values = line.rstrip("\n").rsplit(" ", len(vectors[0]) if vectors else -1)
            try:
                vector = np.array(values, dtype=np.float32)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not a word and numbers") from error
            if not len(vector) or (vectors and len(vector) != len(vectors[0])):
                raise DataError(f"{path}, line {number}: {len(vector)} numbers after the word")
            words.append(word)
            vectors.append(vector)
    if not words:
        raise DataError(f"{path} is empty")
    return WordSpace(words, np.stack(vectors))


@dataclass(frozen=True, slots=True)
class _Slot:
    """A word of a sentence that may be replaced, and what by."""

    start: int
    end: int
    candidates: list[str]


class Augmenter:
    """Variants of sentences, from a masked language model and a word space."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        words: WordSpace,
        *,
        num_candidates: int = 15,
        probability: float = 0.4,
        max_length: int = 256,
    ) -> None:
        """Keep what every sentence needs.

        Args:
            model: A masked language model, in eval mode.
            tokenizer: Its tokenizer, of word pieces.
            words: For words of several tokens.
            num_candidates: K in the paper.
            probability: p_t in the paper: of replacing a word.
            max_length: Tokens of a sentence beside itself; longer ones are cut.
        """
        self.model, self.words = model.eval(), words
        self.num_candidates, self.probability = num_candidates, probability
        # A copy: truncation and padding are settings of the tokenizer itself.
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length)
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=True)
        self.pad_id = vocabulary.get("[PAD]", 0)
        self.tokens = {i: token for token, i in vocabulary.items()}

    def variants(self, sentences: Sequence[str], num_variants: int, seed: int) -> list[list[str]]:
        """Return at most `num_variants` (N_a) different variants of every sentence.

        A variant drawn twice, or equal to the sentence, is dropped and not drawn again, as in the
        released code. The same sentence at the same place gives the same variants for a seed.
        """
        slots = self._slots(sentences)
        return [
            self._draw(sentence, found, num_variants, np.random.default_rng([seed, index]))
            for index, (sentence, found) in enumerate(zip(sentences, slots, strict=True))
        ]

    def _draw(
        self, sentence: str, slots: list[_Slot], num_variants: int, rng: np.random.Generator
    ) -> list[str]:
        found: dict[str, None] = {}
        for _ in range(num_variants):
            pieces, end = [], 0
            for slot in slots:
                candidate = slot.candidates[rng.integers(len(slot.candidates))]
                if rng.random() < self.probability:
                    pieces += [sentence[end : slot.start], candidate]
                    end = slot.end
            variant = "".join([*pieces, sentence[end:]])
            if variant != sentence:
                found[variant] = None
        return list(found)

    def _slots(self, sentences: Sequence[str]) -> list[list[_Slot]]:
        slots: list[list[_Slot]] = [[] for _ in sentences]
        asked: list[tuple[int, int, int]] = []
        near: dict[str, list[str]] = {}
        for index, sentence in enumerate(sentences):
            for match in WORD.finditer(sentence):
                word = match[0].lower()
                if word in STOP_WORDS:
                    continue
                # One token of its own: a word that is not in the vocabulary is one as well.
                tokens = self.tokenizer.encode(match[0], add_special_tokens=False).tokens
                if tokens in ([word], [match[0]]):
                    asked.append((index, match.start(), match.end()))
                    continue
                if word not in near:
                    near[word] = self.words.nearest(word, self.num_candidates)
                if near[word]:
                    slots[index].append(_Slot(match.start(), match.end(), near[word]))
        for (index, start, end), candidates in zip(
            asked, self._proposed([(sentences[i], a, b) for i, a, b in asked]), strict=True
        ):
            if candidates:
                slots[index].append(_Slot(start, end, candidates))
        return [sorted(found, key=lambda slot: slot.start) for found in slots]

    @torch.inference_mode()
    def _proposed(self, asked: Sequence[tuple[str, int, int]]) -> list[list[str]]:
        """Return for words in sentences the whole words that the model would put there."""
        proposals: list[list[str]] = []
        starts = range(0, len(asked), MODEL_BATCH)
        for start in tqdm(starts, desc="augmentation", unit="batch", disable=len(starts) < 20):
            encodings = self.tokenizer.encode_batch(
                [
                    (sentence[:begin] + MASK + sentence[end:], sentence)
                    for sentence, begin, end in asked[start : start + MODEL_BATCH]
                ]
            )
            width = max(len(encoding.ids) for encoding in encodings)
            batch = np.zeros((3, len(encodings), width), dtype=np.int64)
            batch[0] = self.pad_id
            places = np.empty(len(encodings), dtype=np.int64)
            begins = [begin for _, begin, _ in asked[start : start + MODEL_BATCH]]
            for row, encoding in enumerate(encodings):
                length = len(encoding.ids)
                batch[:, row, :length] = encoding.ids, [1] * length, encoding.type_ids
                # Truncation may have cut the word itself away.
                place = encoding.char_to_token(begins[row])
                places[row] = -1 if place is None else place
            proposals += self._best(torch.from_numpy(batch).to(self.model.device), places)
        return proposals

    def _best(self, batch_3BS: torch.Tensor, places_B: NDArray[np.int64]) -> list[list[str]]:
        inputs = {"input_ids": batch_3BS[0], "attention_mask": batch_3BS[1]}
        inputs |= types_read(self.model, batch_3BS[2])
        hidden_BSD = self.model.base_model(**inputs).last_hidden_state
        rows = torch.arange(len(places_B), device=hidden_BSD.device)
        places = torch.from_numpy(places_B).clamp(min=0).to(hidden_BSD.device)
        head = head_of(self.model, hidden_BSD[rows, places])
        logits_BV = torch.addmm(head.bias_V, head.features_ND, head.weight_VD.T)
        # Some of the best are pieces of words: look at more than are wanted.
        best_BK = logits_BV.topk(min(4 * self.num_candidates, logits_BV.shape[1])).indices.tolist()
        found = []
        for place, ids in zip(places_B, best_BK, strict=True):
            whole = [self.tokens[i] for i in ids if WORD.fullmatch(self.tokens.get(i, ""))]
            found.append(whole[: self.num_candidates] if place >= 0 else [])
        return found
