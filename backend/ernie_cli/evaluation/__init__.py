"""Sets of questions with their answers, asked of a running server and counted: the parts of ``eval``."""
