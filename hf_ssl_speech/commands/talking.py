"""What a command prints while it runs."""

import logging
import sys

from transformers.utils import logging as transformers_logging


def log_on_the_first_process(process_index: int = 0):
    """Prints what the package logs; the other processes of a run print errors only."""
    transformers_logging.disable_progress_bar()  # hides the bars for reading and writing weights, at every save
    level = logging.INFO if process_index == 0 else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
