"""From audio to what a model takes: finding, preparing, batching, masking, features."""
