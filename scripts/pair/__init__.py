"""Embedded pair, and how it is made: question generator, tokenizer, training, export."""
