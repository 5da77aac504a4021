"""The corpus as MLflow knows it: a dataset without bytes whose digest is DVC's own hash.

So `mlflow.search_runs(filter_string="dataset.digest = '<md5>.dir'")` finds every run that was
trained on the same shards. This module imports mlflow; only `stages.registry.register` needs it.
"""

from typing import Any

from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import register_dataset_source
from mlflow.data.meta_dataset import MetaDataset

from stages.errors import DataError


class DvcSource(DatasetSource):
    """A folder whose bytes are in the DVC cache."""

    def __init__(self, path: str, md5: str) -> None:
        self.path = path
        self.md5 = md5

    @staticmethod
    def _get_source_type() -> str:
        return "dvc"

    def load(self) -> Any:
        """Refuse: MLflow holds no bytes of the corpus.

        Raises:
            DataError: always; it says where the bytes are.
        """
        raise DataError(f"{self.path} is in the DVC cache; run: dvc checkout {self.path}")

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        del raw_source
        return False

    @classmethod
    def _resolve(cls, raw_source: Any) -> "DvcSource":
        raise NotImplementedError(f"nothing but dvc.lock makes a DvcSource, not {raw_source!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return what MLflow stores."""
        return {"path": self.path, "md5": self.md5}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> "DvcSource":
        """Return the source again from what MLflow stores."""
        return cls(source_dict["path"], source_dict["md5"])


def corpus_dataset(path: str, md5: str) -> MetaDataset:
    """Return the dataset to give to `mlflow.log_input`."""
    return MetaDataset(DvcSource(path, md5), name="corpus", digest=md5)


register_dataset_source(DvcSource)
