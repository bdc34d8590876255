"""The flags and variables of ``serve``: one table, of which help, documents and checks are made."""
