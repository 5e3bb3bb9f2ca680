"""The cloud engine: sequences in, tokens out; one network, many requests."""
