"""Pretraining on transformers' Trainer: arguments, trainer, callbacks, checks and the record of a run."""
