"""What a command says while it works."""

import logging
import sys


def log_on_the_first_process(process_index: int = 0):
    """Prints what the package logs; the other processes of a run print errors only."""
    level = logging.INFO if process_index == 0 else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
