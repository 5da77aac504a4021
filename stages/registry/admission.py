"""What a version must show before it serves: a passed gate, one prediction, perhaps an approval."""

from typing import Any

from stages.command import log
from stages.errors import DistilleryError, GateError
from stages.registry.versions import TAG_APPROVED, Version, read_gate
from stages.tracking.store import Store

# The gate's "above" and "below" are strict; MLflow compares strictly by a least change.
LEAST_CHANGE = 1e-12


def check_gate(store: Store, version: Version) -> dict[str, Any]:
    """Return what the history keeps of a passed gate.

    The numbers are compared with their bounds once more, by MLflow, so that a report whose verdict
    does not follow from its numbers promotes nothing.

    Raises:
        GateError: a check failed, or there is no report; it lists every failed check.
    """
    report = read_gate(store, version)
    if report is None:
        raise GateError(
            f"{version.model} version {version.version} has no gate report in run "
            f"{version.run_id}; run: dvc repro --force --single-item register@{version.student}"
        )
    failed = [check for check in report["checks"] if not check["passed"]]
    if failed or not report["passed"]:
        lines = [
            f"  {check['name']}: {_comparison(check)} ({check['meaning']})" for check in failed
        ]
        raise GateError(
            f"{version.model} version {version.version} ({version.student}) does not pass the "
            "gate, so nothing was changed:\n" + "\n".join(lines)
        )
    validate(version, report["checks"])
    return evidence(report)


def check_approved(version: Version) -> None:
    """Ask for somebody's approval, which a command or a tag on MLflow's page gives.

    Raises:
        GateError: there is none.
    """
    if not version.approved_by:
        raise GateError(
            f"registry.approval is set and nobody has approved {version.model} version "
            f"{version.version}, so nothing was changed; once you have looked at it: "
            f"python -m stages.registry.promotion approve --version {version.version} "
            f"--reason ..., or give the version the tag {TAG_APPROVED} on MLflow's page"
        )


def check_loads(version: Version) -> None:
    """Load a version as a server would and let it answer the example it was registered with.

    Raises:
        DistilleryError: it does not load, or does not answer.
    """
    import mlflow

    try:
        model = mlflow.pyfunc.load_model(version.uri)
        (answer,) = model.predict(model.input_example)
    except Exception as error:
        # Whatever it is, the version must not serve; the cause is in the message.
        raise DistilleryError(
            f"{version.model} version {version.version} does not load or predict, so nothing was "
            f"changed: {type(error).__name__}: {error}"
        ) from error
    log.info("%s version %d loads and answers: %.80s", version.model, version.version, answer)


def validate(version: Version, checks: list[dict[str, Any]]) -> None:
    """Have MLflow compare every number with its bound."""
    import mlflow
    from mlflow.models import EvaluationResult, MetricThreshold
    from mlflow.models.evaluation.validation import ModelValidationFailedException

    judged = [check for check in checks if check["rule"] != "reported"]
    thresholds = {}
    for check in judged:
        upward = check["rule"] in ("at least", "above")
        strict = check["rule"] in ("above", "below")
        bound = (
            {"min_absolute_change": LEAST_CHANGE} if strict else {"threshold": check["threshold"]}
        )
        thresholds[check["name"]] = MetricThreshold(**bound, greater_is_better=upward)
    # A number that does not exist is left out: MLflow then says that it is missing.
    values = {check["name"]: check["value"] for check in judged if check["value"] is not None}
    bounds = {check["name"]: check["threshold"] for check in judged}
    try:
        mlflow.validate_evaluation_results(
            thresholds,
            EvaluationResult(metrics=values, artifacts={}),
            EvaluationResult(metrics=bounds, artifacts={}),
        )
    except ModelValidationFailedException as error:
        raise GateError(
            f"{version.model} version {version.version}: the gate report says passed, its numbers "
            f"do not; run: dvc repro --force gate@{version.student}\n{error}"
        ) from error


def evidence(report: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the history keeps of a gate report: the verdict and every value."""
    if report is None:
        return {}
    values = {check["name"]: check["value"] for check in report["checks"]}
    return {"passed": report["passed"], "values": values}


def _comparison(check: dict[str, Any]) -> str:
    value, bound = (
        f"{number:.6g}" if isinstance(number, float) else str(number)
        for number in (check["value"], check["threshold"])
    )
    return f"{value} must be {check['rule']} {bound}"
