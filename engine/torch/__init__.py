"""The torch engine of both sides: one network, many requests, in continuous batches."""
