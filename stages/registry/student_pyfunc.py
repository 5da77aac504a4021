"""The registered model, as code: fills in masks with ONNX Runtime and the student's tokenizer.

MLflow stores this file with the model and runs it again at loading, so it imports nothing of the
project, no torch, and unpickles nothing. A version carries the fp32 and the INT8 graph; fp32, whose
predictions the gate compared with the measured student, is the default, and
`mlflow.pyfunc.load_model(uri, model_config={"precision": "int8"})` takes the other. The bounds of a
request are there too: one that is larger would hold the server up for everybody.
"""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext
from tokenizers import Tokenizer

DEFAULT_TOP_K, MAX_TOP_K = 5, 100
# Logits are rows x tokens x vocabulary: eight rows of 512 tokens are half a gigabyte.
ROWS_AT_ONCE = 8


class FillMask(PythonModel):
    """Texts with masks in, the likeliest tokens of every mask out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the graph of the asked precision and the tokenizer."""
        self.settings: dict[str, Any] = dict(context.model_config or {})
        precision = self.settings["precision"]
        if precision not in ("fp32", "int8"):
            raise _mistake(f"model_config precision = {precision!r}: must be 'fp32' or 'int8'")
        about = json.loads(Path(context.artifacts["tokenizer_config"]).read_text(encoding="utf-8"))
        self.max_tokens: int = about["model_max_length"]
        self.mask: str = about["mask_token"]
        self.session = onnxruntime.InferenceSession(
            context.artifacts[f"onnx_{precision}"], providers=["CPUExecutionProvider"]
        )
        self.tokenizer = Tokenizer.from_file(context.artifacts["tokenizer"])
        # The file may carry the settings of training: cutting a text could cut its mask away.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        vocabulary = self.tokenizer.get_vocab()
        self.mask_id: int = vocabulary[self.mask]
        self.pad_id: int = vocabulary[about["pad_token"]]

    def predict(
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Return, per text, a list per mask of {token, probability}, the likeliest first.

        Args:
            model_input: a column `text`; the signature has MLflow make it from a list of
                {"text": ...} too.
            params: `top_k`, the number of tokens per mask.

        Raises:
            MlflowException: the request is larger than its bounds allow, or a row is no text with a
                mask that the model can read.
        """
        asked = (params or {}).get("top_k")
        top_k = DEFAULT_TOP_K if asked is None else int(asked)
        if not 1 <= top_k <= MAX_TOP_K:
            raise _mistake(f"params top_k = {top_k}: must be 1 to {MAX_TOP_K}")
        texts = list(model_input["text"])
        self._bound("rows", len(texts))
        self._bound("characters", sum(len(text) for text in texts if isinstance(text, str)))
        rows = [self._token_ids(i, text) for i, text in enumerate(texts)]
        self._bound("masks", sum(ids.count(self.mask_id) for ids in rows))
        # Neighbours in length share a batch, so that little of it is padding.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        answers: list[dict[str, Any]] = [{} for _ in rows]
        for start in range(0, len(order), ROWS_AT_ONCE):
            chosen = order[start : start + ROWS_AT_ONCE]
            for i, masks in zip(chosen, self._fill([rows[i] for i in chosen], top_k), strict=True):
                answers[i] = {"masks": masks}
        return answers

    def _bound(self, what: str, found: int) -> None:
        most = self.settings[f"max_{what}"]
        if found > most:
            raise _mistake(
                f"the request has {found} {what}, and model_config max_{what} allows {most}: "
                "ask in parts"
            )

    def _token_ids(self, row: int, text: str) -> list[int]:
        if not isinstance(text, str):
            raise _mistake(f"row {row}: text = {text!r}: must be a string")
        ids: list[int] = self.tokenizer.encode(text).ids
        if self.mask_id not in ids:
            raise _mistake(
                f"row {row}: the text has no {self.mask}; put it where a word is missing: "
                f"{text[:80]!r}"
            )
        if len(ids) > self.max_tokens:
            raise _mistake(
                f"row {row}: the text has {len(ids)} tokens, the model reads at most "
                f"{self.max_tokens}; shorten it"
            )
        return ids

    def _fill(self, rows: list[list[int]], top_k: int) -> list[list[list[dict[str, Any]]]]:
        length = max(len(ids) for ids in rows)
        ids_BS = np.full((len(rows), length), self.pad_id, dtype=np.int64)
        attention_BS = np.zeros_like(ids_BS)
        for i, ids in enumerate(rows):
            ids_BS[i, : len(ids)] = ids
            attention_BS[i, : len(ids)] = 1
        inputs = {"input_ids": ids_BS, "attention_mask": attention_BS}
        (logits_BSV,) = self.session.run(["logits"], inputs)
        return [
            [
                self._likeliest(logits_BSV[i, position], top_k)
                for position in np.flatnonzero(ids_BS[i] == self.mask_id)
            ]
            for i in range(len(rows))
        ]

    def _likeliest(self, logits_V: Any, top_k: int) -> list[dict[str, Any]]:
        weights_V = np.exp(logits_V.astype(np.float64) - logits_V.max())
        best = np.argsort(-weights_V, kind="stable")[:top_k]
        return [
            {
                # As text: a vocabulary of bytes has its own signs for a space and for accents.
                "token": self.tokenizer.decode([int(i)], skip_special_tokens=False),
                "probability": float(weights_V[i] / weights_V.sum()),
            }
            for i in best
        ]


def _mistake(message: str) -> MlflowException:
    """Return the error that MLflow's server answers with status 400 and this message."""
    return MlflowException.invalid_parameter_value(message)


mlflow.models.set_model(FillMask())
