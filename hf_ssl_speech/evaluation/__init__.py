"""What a recogniser is worth: decoding, error rates with intervals, recognisers side by side."""
