"""What can go wrong for a user, as one small tree.

* DistilleryError          something the user can act on; printed without a traceback, exit 1
  - SettingsError          params.yaml or a profile is wrong; carries every mistake, exit 2
  - DataError              an input file is missing, empty, damaged or not what its checksum says
  - TeacherError           a teacher cannot be fetched, verified or matched with its tokenizer
  - TrainingError          a loss or gradient stopped being finite, or a checkpoint does not fit
  - ParityError            an exported model does not answer as the student does (stages/export)
  - GateError              a student does not pass the gate, so nothing was promoted
* Interrupted              SIGINT or SIGTERM: checkpointed, the same command goes on, exit 75
"""


class DistilleryError(Exception):
    """Something the user can act on: what happened, where, and what to do next."""

    exit_code = 1


class SettingsError(DistilleryError):
    """params.yaml, a profile or a command line is wrong."""

    exit_code = 2


class DataError(DistilleryError):
    """An input is missing, empty, damaged, or not what its checksum says."""


class TeacherError(DistilleryError):
    """A teacher cannot be fetched, verified, or does not fit its tokenizer."""


class TrainingError(DistilleryError):
    """Training cannot go on, or a checkpoint does not belong to this run."""


class GateError(DistilleryError):
    """A student does not pass the gate."""


class Interrupted(DistilleryError):  # noqa: N818 - it is an outcome, not a fault
    """The run was asked to stop and has checkpointed; the same command resumes it."""

    exit_code = 75
