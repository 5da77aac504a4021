"""Check the settings in force, naming every mistake at once, or switch them.

Check the settings in force:   python -m stages.params check
Switch to a profile:           python -m stages.params use local-glue
"""

import argparse
from pathlib import Path

from stages.command import log, parser_for, run
from stages.errors import SettingsError
from stages.params.loading import PARAMS, load, profile_names, use


def main(arguments: argparse.Namespace) -> None:
    """Check params.yaml, or switch it to a profile."""
    if arguments.action == "use":
        if not arguments.profile:
            raise SettingsError(f"which profile? There are: {', '.join(profile_names())}")
        use(arguments.profile)
        return
    params = load(Path(arguments.profile) if arguments.profile else PARAMS)
    log.info("valid: profile %s", params.profile)


if __name__ == "__main__":
    parser = parser_for(__doc__)
    parser.add_argument("action", choices=["check", "use"])
    parser.add_argument("profile", nargs="?", help="a profile's name (use) or a file (check)")
    run(main, parser)
