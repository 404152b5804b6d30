"""Text and speech: transcripts, labels, decoding, error rates, alignment."""
