"""What is verified holds, and the documents show it as it is."""

from stages.distillation import verify
from tests.conftest import ROOT


def test_everything_is_as_published_and_the_document_is_current() -> None:
    text, wrong = verify.verify()
    assert wrong == []
    assert (ROOT / "docs" / "recipes-verified.md").read_text(encoding="utf-8") == text, (
        "make it again: python -m stages.distillation.verify --out docs/recipes-verified.md"
    )
