"""Fleets of engines: replicas, their balance and number, and the model pool."""
