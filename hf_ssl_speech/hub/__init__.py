"""Exchange with stock transformers and torchaudio checkpoints, and model cards."""
