"""Trains a small student that learns several layers of a teacher, as DistilHuBERT does.

    hf-ssl-speech distil distil_base --train_data my_audio --output_dir runs/student --num_processes 8
    hf-ssl-speech distil distil_tiny --train_data my_audio --teacher runs/hubert-tiny       (CPU, minutes)
    hf-ssl-speech distil distil_base --train_data my_audio --teacher_layers 6 12 --config '{"num_hidden_layers": 3}'

The student starts with the teacher's conv encoder and first layers. It is an encoder like any other afterwards. The
same command continues an interrupted run from its last checkpoint.
"""

from __future__ import annotations

from hf_ssl_speech.commands.parsing import parse_arguments
from hf_ssl_speech.commands.talking import log_on_the_first_process
from hf_ssl_speech.recipes.arguments import DistillationArguments
from hf_ssl_speech.recipes.inputs import SpeechDataArguments
from hf_ssl_speech.training.arguments import SpeechPreTrainingArguments


def main(argv: list[str]):
    """Teacher, student, data, training."""
    student_args, data_args, args = parse_arguments(
        argv, DistillationArguments, SpeechDataArguments, SpeechPreTrainingArguments, about=__doc__, launched=True
    )
    from transformers import set_seed

    from hf_ssl_speech.data.feature_extractor import feature_extractor_for
    from hf_ssl_speech.recipes.pretraining import load_data, pretrain
    from hf_ssl_speech.recipes.starting_points import load_teacher
    from hf_ssl_speech.training.distillation import make_student

    log_on_the_first_process(args.process_index)
    set_seed(args.seed)

    source = student_args.teacher
    teacher = load_teacher(source)
    extractor = feature_extractor_for(teacher.config, source)
    attention = {"attn_implementation": student_args.attn_implementation}
    student = make_student(teacher, student_args.teacher_layers, **attention, **student_args.config)
    train, validation = load_data(student, data_args, args)
    pretrain(student, args, train, validation, processing_class=extractor, start=source, teacher=teacher)
