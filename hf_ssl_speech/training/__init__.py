"""Training on transformers' Trainer: arguments, trainers, callbacks, checks and the record of a run."""
