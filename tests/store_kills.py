"""Kill whoever writes to MLflow's store, in this process, at any of its writes."""


class Killed(BaseException):
    """Stands for a kill: nothing catches it on purpose."""


WRITES = (
    "create_run",
    "update_run_info",
    "log_batch",
    "log_param",
    "set_tag",
    "log_inputs",
    "log_outputs",
    "create_logged_model",
    "finalize_logged_model",
    "set_logged_model_tags",
    "create_experiment",
)
REGISTRY_WRITES = (
    "create_registered_model",
    "create_model_version",
    "update_model_version",
    "set_model_version_tag",
    "set_registered_model_alias",
    "set_registered_model_tag",
    "delete_registered_model_alias",
)
FILE_WRITES = ("log_artifact", "log_artifacts")


def plant_kill(patch, survive):
    """Let `survive` writes to the store happen, then let every further one die; count them."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore

    writes = []

    def planted(name, original):
        def write(self, *arguments, **named):
            writes.append(name)
            if len(writes) > survive:
                raise Killed(name)
            return original(self, *arguments, **named)

        return write

    for owner, names in (
        (TrackingStore, WRITES),
        (RegistryStore, REGISTRY_WRITES),
        (LocalArtifactRepository, FILE_WRITES),
    ):
        for name in names:
            patch.setattr(owner, name, planted(name, getattr(owner, name)))
    return writes


def end_fluent_run():
    """A killed process leaves no active run behind; this one must be told."""
    from mlflow.tracking.fluent import _active_run_stack

    _active_run_stack.set([])
