"""The cloud engine: one network, many requests, in continuous batches."""
