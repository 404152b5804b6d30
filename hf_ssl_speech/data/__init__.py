"""From audio and text to what a model takes: loading, batching, masking, features."""
