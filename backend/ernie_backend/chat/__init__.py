"""Text to tokens and back, messages to text."""
