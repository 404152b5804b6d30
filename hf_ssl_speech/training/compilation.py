"""Compilation block by block, where the arguments or Accelerate's launcher ask for any."""

from __future__ import annotations

import logging

from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import nn

from hf_ssl_speech.models.compilation import compile_blocks
from hf_ssl_speech.training.arguments import SpeechTrainingArguments

logger = logging.getLogger(__name__)


def compile_as_asked(model: nn.Module, args: SpeechTrainingArguments, accelerator: Accelerator):
    """Compiles the blocks of the model, and keeps Accelerate from compiling the whole of it."""
    plugin = accelerator.state.dynamo_plugin
    asked = args.torch_compile_backend if args.torch_compile else plugin.backend.value
    plugin.backend = DynamoBackend.NO
    if asked is None or asked.upper() == DynamoBackend.NO:
        return
    compile_blocks(model, backend=asked.lower(), mode=args.torch_compile_mode)
    logger.info(
        "Conv layers, transformer layers and heads are compiled: the first updates take longer, and so does the first "
        "with padding."
    )
