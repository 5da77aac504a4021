"""A registered classifier, as code: labels of texts from ONNX Runtime and its tokenizer.

Like student_pyfunc.py it is stored with the model and run again at loading, so it imports nothing
of the project, no torch, and unpickles nothing; `model_config` has the same bounds of a request.
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

ROWS_AT_ONCE = 32


class Classify(PythonModel):
    """Texts, or pairs of texts, in; the likeliest label and every label's probability out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the graph of the asked precision and the tokenizer."""
        self.settings: dict[str, Any] = dict(context.model_config or {})
        precision = self.settings["precision"]
        if precision not in ("fp32", "int8"):
            raise _mistake(f"model_config precision = {precision!r}: must be 'fp32' or 'int8'")
        config = json.loads(Path(context.artifacts["config"]).read_text(encoding="utf-8"))
        names = {int(i): name for i, name in config["id2label"].items()}
        self.labels: list[str] = [names[i] for i in range(len(names))]
        self.is_regression: bool = len(self.labels) == 1
        self.session = onnxruntime.InferenceSession(
            context.artifacts[f"onnx_{precision}"], providers=["CPUExecutionProvider"]
        )
        self.inputs: list[str] = [given.name for given in self.session.get_inputs()]
        self.tokenizer = Tokenizer.from_file(context.artifacts["tokenizer"])
        about = json.loads(Path(context.artifacts["tokenizer_config"]).read_text(encoding="utf-8"))
        # A text is cut where the model was tuned and scored.
        self.tokenizer.enable_truncation(about["model_max_length"])
        pad = about["pad_token"]
        self.tokenizer.enable_padding(pad_id=self.tokenizer.token_to_id(pad), pad_token=pad)

    def predict(
        self,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002 - MLflow's signature
    ) -> list[dict[str, Any]]:
        """Return, per row, {label, probabilities}, or {score} where the model is a regression.

        Args:
            model_input: a column `text`, and `text_pair` for tasks on two texts. What is longer
                than the model reads is cut, as it was when the model was scored.
            params: there are none.

        Raises:
            MlflowException: the request is larger than its bounds allow, or a row is no text.
        """
        self._bound("rows", len(model_input))
        given = model_input.reindex(columns=["text", "text_pair"]).itertuples(index=False)
        rows = [_row(i, text, pair) for i, (text, pair) in enumerate(given)]
        self._bound("characters", sum(len("".join(row)) for row in rows))
        # Neighbours in length share a batch, so that little of it is padding.
        order = sorted(range(len(rows)), key=lambda i: len("".join(rows[i])))
        answers: list[dict[str, Any]] = [{} for _ in rows]
        for start in range(0, len(order), ROWS_AT_ONCE):
            chosen = order[start : start + ROWS_AT_ONCE]
            for i, logits_C in zip(chosen, self._logits([rows[i] for i in chosen]), strict=True):
                answers[i] = self._answer(logits_C)
        return answers

    def _bound(self, what: str, found: int) -> None:
        most = self.settings[f"max_{what}"]
        if found > most:
            raise _mistake(
                f"the request has {found} {what}, and model_config max_{what} allows {most}: "
                "ask in parts"
            )

    def _logits(self, texts: list[Any]) -> Any:
        encoded = self.tokenizer.encode_batch(texts)
        fields = {"input_ids": "ids", "attention_mask": "attention_mask"}
        fields |= {"token_type_ids": "type_ids"}
        feeds = {
            name: np.array([getattr(row, fields[name]) for row in encoded], dtype=np.int64)
            for name in self.inputs
        }
        (logits_BC,) = self.session.run(["logits"], feeds)
        return logits_BC.astype(np.float64)

    def _answer(self, logits_C: Any) -> dict[str, Any]:
        if self.is_regression:
            return {"score": float(logits_C[0])}
        weights_C = np.exp(logits_C - logits_C.max())
        shares_C = weights_C / weights_C.sum()
        return {
            "label": self.labels[int(shares_C.argmax())],
            "probabilities": dict(zip(self.labels, shares_C.tolist(), strict=True)),
        }


def _row(row: int, text: Any, pair: Any) -> str | tuple[str, str]:
    """Return one text or two, as the tokenizer takes them; a row that names no second has one."""
    if not isinstance(text, str):
        raise _mistake(f"row {row}: text = {text!r}: must be a string")
    if isinstance(pair, str):
        return text, pair
    if pd.api.types.is_scalar(pair) and pd.isna(pair):
        return text
    raise _mistake(f"row {row}: text_pair = {pair!r}: must be a string")


def _mistake(message: str) -> MlflowException:
    """Return the error that MLflow's server answers with status 400 and this message."""
    return MlflowException.invalid_parameter_value(message)


mlflow.models.set_model(Classify())
