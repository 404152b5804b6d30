"""Encoder, objectives and heads of wav2vec 2.0 and HuBERT. Imports only torch, transformers and its own files."""
